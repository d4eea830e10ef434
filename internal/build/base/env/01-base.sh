#!/bin/sh
# Sourced first. Files for the environment of the system itself belong between 01 and 90.
