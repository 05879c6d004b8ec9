"""`python -m tauserve`: the commands of the API's calls, with tauserve-cli's names, variables and exit codes."""
