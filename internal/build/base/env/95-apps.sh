#!/bin/sh
# The environment of the app that was chosen with --app.

_app=${APPTAINER_APPNAME:-${SINGULARITY_APPNAME:-}}
if [ -n "$_app" ]; then
	if [ ! -d "/scif/apps/$_app" ]; then
		echo "there is no app $_app in /scif/apps" >&2
		exit 1
	fi
	# Variables that are set stay unchanged: Apptainer has made them read-only.
	: "${APPTAINER_APPNAME:=$_app}" "${SINGULARITY_APPNAME:=$_app}"
	export APPTAINER_APPNAME SINGULARITY_APPNAME
	export SCIF_APPS=/scif/apps SCIF_APPROOT="/scif/apps/$_app"
	export PATH="$SCIF_APPROOT/bin:$SCIF_APPROOT:$PATH"
	export LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
	for _file in "$SCIF_APPROOT/scif/env/01-base.sh" "$SCIF_APPROOT/scif/env/90-environment.sh"; do
		[ ! -f "$_file" ] || . "$_file"
	done
fi
unset _app _file
