# Brings vision_msgs where ROS has none; sourced by bash after tools/ros_env.sh: `. tools/vision_env.sh`
#
# A robot has the real package from apt. The wheels have none, so tools/vision_msgs holds the messages that the node
# uses, with the same type hashes; they are built once for each state of their files.

if ! python -c 'import vision_msgs.msg' 2>/dev/null; then
  _oat_tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  _oat_digest=$(cd "$_oat_tools/vision_msgs" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-12)
  _oat_built="$_oat_tools/../ros2_ws/build/overlay-$_oat_digest"
  if [ ! -e "$_oat_built/built" ]; then
    echo "Building vision_msgs" >&2
    mkdir -p "$_oat_built"
    (cd "$_oat_tools/../ros2_ws" && colcon --log-base "$_oat_built/log" build --base-paths "$_oat_tools/vision_msgs" \
      --merge-install --build-base "$_oat_built/build" --install-base "$_oat_built/install" \
      --cmake-args -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release) >"$_oat_built/build.log" 2>&1 &&
      touch "$_oat_built/built" || cat "$_oat_built/build.log" >&2
  fi
  case $- in *u*) _oat_nounset=-u ;; *) _oat_nounset=+u ;; esac
  set +u # colcon's own scripts use variables that may be unset
  if [ -e "$_oat_built/built" ]; then . "$_oat_built/install/local_setup.bash"; fi
  set "$_oat_nounset"
  unset _oat_tools _oat_digest _oat_built _oat_nounset
fi
python -c 'import vision_msgs.msg'
