"""Preference sets of others as groups with rankings, and ours in their forms.

Each module reads one form: what its rows look like stands in its docstring. A reader turns rows into `Ranked` groups,
each with whoever voted; `known` says which reader fits some files, `exporting` writes datasets of rankings in the
forms of others, and `measured` tells how far those who voted agree.
"""
