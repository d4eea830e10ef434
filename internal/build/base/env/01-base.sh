#!/bin/sh
# Sourced first. What the system's own environment needs goes between here and 90.
