#!/bin/bash
# Starts the perception node on a robot: `start.sh [more ROS arguments]`. Used by the systemd unit and the container.
#
#   BUNDLE     the trained network: its folder, or the name of a shipped one
#   PARAMS     parameter file; empty: the one that ships
#   WORKSPACE  the built workspace          VENV  the environment with oat-robot in it
#   ACROSS_USERS=1   the camera, or who reads the results, runs as another user or in another container: UDP on this
#              machine, where shared memory would be closed. They all load config/fastdds_users.xml then, see docs/ros.md
#   ROS_DISTRO  which of /opt/ros; empty: the one that is there
set -e
: "${BUNDLE:?set BUNDLE to the folder of a trained network, or the name of a shipped one}"
: "${WORKSPACE:=/opt/oat/ros2_ws}" "${VENV:=/opt/oat/venv}"
: "${ROS_DISTRO:=$(ls /opt/ros | head -n 1)}"
. "/opt/ros/$ROS_DISTRO/setup.bash"
. "$VENV/bin/activate"
. "$WORKSPACE/install/setup.bash"
share="$WORKSPACE/install/share/oat_perception"
# The camera's process must load the same profile, see docs/ros.md. Up to Jazzy its variable has the first name.
profile="$share/config/fastdds.xml"
if [ -n "${ACROSS_USERS:-}" ]; then
  profile="$share/config/fastdds_users.xml"
  export ROS_AUTOMATIC_DISCOVERY_RANGE=SYSTEM_DEFAULT # the profile itself stays on this machine
fi
if [ -z "${FASTRTPS_DEFAULT_PROFILES_FILE+own}${FASTDDS_DEFAULT_PROFILES_FILE+own}" ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="$profile" FASTDDS_DEFAULT_PROFILES_FILE="$profile"
fi
exec "$WORKSPACE/install/lib/oat_perception/perception_node" --ros-args \
  --params-file "${PARAMS:-$share/config/perception.yaml}" -p "bundle:=$BUNDLE" -p auto_activate:=true "$@"
