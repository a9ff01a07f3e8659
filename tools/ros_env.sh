# Sets what a shell needs to run ROS 2 and this workspace; sourced by bash: `. tools/ros_env.sh`
#
# With the ROS 2 wheels in .venv it uses those alone; without them it leaves the ROS 2 that is already sourced
# (/opt/ros) as it is and only adds the workspace, if that is built. OAT_VENV names another environment than .venv.

_oat_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_oat_venv=$(realpath --no-symlinks "${OAT_VENV:-$_oat_root/.venv}")

if compgen -G "$_oat_venv/lib/python3*/site-packages/rclpy" >/dev/null; then
  export VIRTUAL_ENV="$_oat_venv"
  export AMENT_PREFIX_PATH="$_oat_venv" CMAKE_PREFIX_PATH="$_oat_venv"
  export ROS_VERSION=2 ROS_DISTRO=jazzy ROS_PYTHON_VERSION=3
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
fi

export RMW_IMPLEMENTATION="${RMW_IMPLEMENTATION:-rmw_fastrtps_cpp}"
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
# Without it, large images between processes are lost. Set it empty for Fast DDS's own settings.
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE-$_oat_root/ros2_ws/src/oat_perception/config/fastdds.xml}"

unset _oat_root _oat_venv _oat_libs
