import sys

if sys.argv[:1] == ["-m"]:  # of a command, not of a program that uses this package
    from experiments.failures import last_resort

    sys.excepthook = last_resort
