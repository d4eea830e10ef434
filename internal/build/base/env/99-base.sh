#!/bin/sh
# Apptainer puts the host's libraries (--nv, --rocm) where this looks for them.

export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
