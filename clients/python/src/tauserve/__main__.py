import sys

from tauserve._command_line.main import main

sys.exit(main(sys.argv[1:]))
