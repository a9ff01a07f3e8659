#!/bin/bash
# Starts the perception node on a robot: `start.sh [more ROS arguments]`. Used by the systemd unit and the container.
#
#   BUNDLE     the trained network: its folder, or the name of a shipped one
#   PARAMS     parameter file; empty: the one that ships
#   WORKSPACE  the built workspace          VENV  the environment with oat-robot in it
set -e
: "${BUNDLE:?set BUNDLE to the folder of a trained network, or the name of a shipped one}"
: "${WORKSPACE:=/opt/oat/ros2_ws}" "${VENV:=/opt/oat/venv}"
. /opt/ros/jazzy/setup.bash
. "$VENV/bin/activate"
. "$WORKSPACE/install/setup.bash"
share="$WORKSPACE/install/share/oat_perception"
# The camera's process must load the same profile, see docs/ros.md.
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE+own}" ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE-$share/config/fastdds.xml}"
fi
exec "$WORKSPACE/install/lib/oat_perception/perception_node" --ros-args \
  --params-file "${PARAMS:-$share/config/perception.yaml}" -p "bundle:=$BUNDLE" -p auto_activate:=true "$@"
