// The terminal as a screen that is drawn anew as a whole. Escape sequences of ECMA-48 and xterm, which every terminal in
// use knows: a library (ncurses) would decide by $TERM and the locale what we know, and needs both to be right.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_TERMINAL_H_
#define TAUSERVE_CLIENTS_CPP_TOP_TERMINAL_H_

#include <termios.h>

#include <optional>
#include <string>
#include <vector>

namespace tauserve::client::top {

// Takes the alternate screen, hides the cursor, and has keys come one by one without being shown; signals' keys stay. The
// destructor gives all of it back.
class Terminal {
 public:
  // Whether `out` is a terminal that knows the sequences.
  static bool IsScreen(int out);

  Terminal(int in, int out) : in_(in), out_(out) { Enter(); }
  ~Terminal() { Leave(); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Before the process is stopped, and after.
  void Enter();
  void Leave();
  int columns() const;
  int rows() const;
  // Lines of at most columns() characters, at most rows() of them. False: the terminal is gone.
  bool Draw(const std::vector<std::string>& lines);

 private:
  bool Write(const std::string& text);

  const int in_, out_;
  std::optional<termios> before_;  // of `in`, if that is a terminal
};

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_TERMINAL_H_
