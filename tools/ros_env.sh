# Sets what a shell needs to run ROS 2 and this workspace; sourced by bash: `. tools/ros_env.sh`
#
# With the ROS 2 wheels in .venv it uses those alone; without them it leaves the ROS 2 that is already sourced
# (/opt/ros) as it is and only adds the workspace, if that is built. OAT_VENV names another environment than .venv.

if [ -z "${BASH_VERSION:-}" ]; then
  echo "tools/ros_env.sh: expected bash, got another shell: start bash first" >&2
  return 1
fi
if [ -n "${OAT_VENV:-}" ] && [ ! -x "$OAT_VENV/bin/python" ]; then
  echo "tools/ros_env.sh: expected an environment with bin/python in OAT_VENV, got $OAT_VENV" >&2
  return 1
fi
case $- in *u*) _oat_nounset=-u ;; *) _oat_nounset=+u ;; esac
set +u # colcon's own scripts use variables that may be unset

_oat_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_oat_venv=$(realpath --no-symlinks "${OAT_VENV:-$_oat_root/.venv}")

if compgen -G "$_oat_venv/lib/python3*/site-packages/rclpy" >/dev/null; then
  export VIRTUAL_ENV="$_oat_venv"
  export AMENT_PREFIX_PATH="$_oat_venv" CMAKE_PREFIX_PATH="$_oat_venv"
  export ROS_VERSION=2 ROS_DISTRO=jazzy ROS_PYTHON_VERSION=3
  if compgen -G "$_oat_venv/lib/python3*/site-packages/ros_kilted_rclpy-*" >/dev/null; then ROS_DISTRO=kilted; fi
  if [ -n "${PYTHONPATH:-}" ] && [ "${PYTHONPATH#"$_oat_root/ros2_ws"}" = "$PYTHONPATH" ]; then
    echo "tools/ros_env.sh: leaves out PYTHONPATH=$PYTHONPATH, which may hold another ROS 2" >&2
  fi
  unset PYTHONPATH COLCON_PREFIX_PATH
  case ":$PATH:" in *":$_oat_venv/bin:"*) ;; *) export PATH="$_oat_venv/bin:$PATH" ;; esac
  # The wheels' bootstrapper would find these folders too, but starts Python a second time to set them.
  for _oat_libs in "$_oat_venv"/lib/python3*/site-packages/ros_*.libs "$_oat_venv/lib"; do
    case ":${LD_LIBRARY_PATH:-}:" in
      *":$_oat_libs:"*) ;;
      *) export LD_LIBRARY_PATH="$_oat_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
    esac
  done
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
fi

if [ -f "$_oat_root/ros2_ws/install/local_setup.bash" ]; then
  . "$_oat_root/ros2_ws/install/local_setup.bash"
else
  echo "tools/ros_env.sh: the workspace is not built: run \`make ws\`" >&2
fi

export RMW_IMPLEMENTATION="${RMW_IMPLEMENTATION:-rmw_fastrtps_cpp}"
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
# Without it, large images between processes are lost. Set it empty for Fast DDS's own settings.
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}" ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE-$_oat_root/ros2_ws/src/oat_perception/config/fastdds.xml}"
  # Kilted calls this name deprecated; Humble knows no other.
  case "${ROS_DISTRO:-}" in
    humble | jazzy) ;;
    *) export FASTDDS_DEFAULT_PROFILES_FILE="$FASTRTPS_DEFAULT_PROFILES_FILE" ;;
  esac
fi

set "$_oat_nounset"
unset _oat_root _oat_venv _oat_libs _oat_nounset
