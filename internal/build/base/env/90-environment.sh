#!/bin/sh
# %environment of the recipe, and of the recipes it is based on.
