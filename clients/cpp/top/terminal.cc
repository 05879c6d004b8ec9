#include "clients/cpp/top/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace tauserve::client::top {
namespace {

constexpr char kAlternateScreen[] = "\x1b[?1049h\x1b[?25l";  // and no cursor
constexpr char kMainScreen[] = "\x1b[?25h\x1b[?1049l";
constexpr char kHome[] = "\x1b[H";
constexpr char kClearLine[] = "\x1b[K";
constexpr char kClearBelow[] = "\x1b[J";

winsize SizeOf(int out) {
  winsize size = {};
  if (ioctl(out, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    size.ws_col = 80;
    size.ws_row = 24;
  }
  return size;
}

}  // namespace

bool Terminal::IsScreen(int out) {
  const char* term = std::getenv("TERM");
  return isatty(out) != 0 && term != nullptr && *term != '\0' && absl::string_view(term) != "dumb";
}

void Terminal::Enter() {
  termios now;
  if (tcgetattr(in_, &now) == 0) {
    before_ = now;
    now.c_lflag &= ~(ICANON | ECHO);
    now.c_cc[VMIN] = 1;
    now.c_cc[VTIME] = 0;
    tcsetattr(in_, TCSAFLUSH, &now);
  }
  Write(kAlternateScreen);
}

void Terminal::Leave() {
  Write(kMainScreen);
  if (before_) tcsetattr(in_, TCSAFLUSH, &*before_);
}

int Terminal::columns() const { return SizeOf(out_).ws_col; }
int Terminal::rows() const { return SizeOf(out_).ws_row; }

bool Terminal::Draw(const std::vector<std::string>& lines) {
  // In one piece, and without clearing first: nothing flickers.
  return Write(absl::StrCat(kHome, absl::StrJoin(lines, absl::StrCat(kClearLine, "\r\n")),
                            kClearLine, kClearBelow));
}

bool Terminal::Write(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(out_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    done += written;
  }
  return true;
}

}  // namespace tauserve::client::top
