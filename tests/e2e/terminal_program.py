"""A program under a pseudo terminal, and what its user sees there."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading

import pyte

from server_process import PATIENCE, wait_until

MAIN_SCREEN = b"\x1b[?1049l"
CURSOR = b"\x1b[?25h"


class TerminalProgram:
    """Its screen is kept by pyte, which knows the alternate screen only as bytes: `restored` says whether it was left."""

    def __init__(self, command, columns=100, rows=30, **environment):
        self.master, self.slave = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.lock = threading.Lock()
        self.seen = b""
        self._set_size(columns, rows)
        self.attributes = termios.tcgetattr(self.slave)
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}
        environment.pop("NO_COLOR", None)
        # setsid, not preexec_fn: Python code of a forked child can wait for ever for a lock of another thread, gRPC's say.
        self.process = subprocess.Popen(["setsid", "--ctty", *command], stdin=self.slave, stdout=self.slave,
                                        stderr=subprocess.PIPE, env=environment)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        # The slave's end is open here, too, so that its attributes can be read: the pipe, not the terminal, tells the end.
        while self.process.poll() is None or self._readable():
            if self._readable(0.05):
                data = os.read(self.master, 65536)
                with self.lock:
                    self.seen += data
                    self.stream.feed(data)

    def _readable(self, patience=0.0):
        return bool(select.select([self.master], [], [], patience)[0])

    def _set_size(self, columns, rows):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        with self.lock:
            self.screen.resize(rows, columns)
        self._set_size(columns, rows)  # the kernel tells the program

    def type(self, keys):
        os.write(self.master, keys.encode())

    def lines(self):
        with self.lock:
            return [line.rstrip() for line in self.screen.display]

    def text(self):
        return "\n".join(self.lines())

    def wait_for(self, text):
        wait_until(lambda: text in self.text() or self.process.poll() is not None, f"'{text}' on the screen")
        assert text in self.text(), (self.text(), self.process.poll())

    def restored(self):
        with self.lock:
            left = self.seen.rfind(MAIN_SCREEN) > self.seen.rfind(b"\x1b[?1049h")
            shown = self.seen.rfind(CURSOR) > self.seen.rfind(b"\x1b[?25l")
        return left and shown and termios.tcgetattr(self.slave) == self.attributes

    def wait(self):
        code = self.process.wait(timeout=PATIENCE)
        self.reader.join()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.wait()
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)
