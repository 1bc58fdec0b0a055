// Real processes for tests: a forked child that talks with its parent through pipes, and can be
// killed and stopped.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <functional>
#include <string>

namespace weightcast::test {

/// One end of a conversation in lines of text.
class Talk {
 public:
  Talk(int in, int out) : in_(in), out_(out) {}

  /// For poll(2).
  int in() const noexcept { return in_; }

  void say(const std::string& line) const {
    const std::string text = line + "\n";
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t wrote = ::write(out_, text.data() + at, text.size() - at);
      if (wrote <= 0) return;  // the other end is gone; hear() over there tells
      at += static_cast<std::size_t>(wrote);
    }
  }

  /// The next line; "" where the other end is gone or says nothing for a minute.
  std::string hear() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    std::string line;
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd in{in_, POLLIN, 0};
      if (left.count() <= 0 || ::poll(&in, 1, static_cast<int>(left.count())) <= 0) return "";
      char c = 0;
      if (::read(in_, &c, 1) != 1) return "";
      if (c == '\n') return line;
      line += c;
    }
  }

 private:
  int in_;
  int out_;
};

/// A child that runs `body` and exits with what it returns, without running any destructor of the
/// parent's. It dies with its parent, and in any case after two minutes.
/// Fork where no other thread runs.
class ChildProcess {
 public:
  explicit ChildProcess(const std::function<int(const Talk&)>& body) {
    ::signal(SIGPIPE, SIG_IGN);
    std::array<int, 2> down{};
    std::array<int, 2> up{};
    if (::pipe(down.data()) != 0 || ::pipe(up.data()) != 0) {
      ADD_FAILURE() << "no pipes: errno " << errno;
      return;
    }
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::alarm(120);
      ::close(down[1]);
      ::close(up[0]);
      ::_exit(body(Talk(down[0], up[1])));
    }
    EXPECT_GT(pid_, 0) << "no fork: errno " << errno;
    ::close(down[0]);
    ::close(up[1]);
    in_ = up[0];
    out_ = down[1];
  }
  ~ChildProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    hang_up();
    if (in_ >= 0) ::close(in_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void say(const std::string& line) const { Talk(in_, out_).say(line); }
  std::string hear() const { return Talk(in_, out_).hear(); }
  void hang_up() {
    if (out_ >= 0) ::close(out_);
    out_ = -1;
  }

  /// Returns when the child has stopped.
  void stop() const {
    ::kill(pid_, SIGSTOP);
    int status = 0;
    ASSERT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
    ASSERT_TRUE(WIFSTOPPED(status));
  }
  void go_on() const { ::kill(pid_, SIGCONT); }

  /// Returns when the child is dead and all its descriptors are closed.
  void kill() {
    ::kill(pid_, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
  }

  /// The exit code, or minus the signal that ended it.
  int wait() {
    int status = 0;
    if (::waitpid(pid_, &status, 0) != pid_) return -1000;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
};

}  // namespace weightcast::test
