// A program run beside a test that has used CUDA, where forking without executing is no way.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "support/child_process.hpp"

extern char** environ;

namespace weightcast::test {

/// The peer's standard streams are a Talk with the test. Ended with the object.
class Spawned {
 public:
  Spawned(std::string program, std::vector<std::string> arguments) {
    std::array<int, 2> down{}, up{};
    if (::pipe2(down.data(), O_CLOEXEC) != 0 || ::pipe2(up.data(), O_CLOEXEC) != 0) {
      ADD_FAILURE() << "no pipes: errno " << errno;
      return;
    }
    std::vector<char*> argv = {program.data()};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, down[0], 0);
    ::posix_spawn_file_actions_adddup2(&actions, up[1], 1);
    const int error =
        ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      ADD_FAILURE() << "cannot start " << program << ": errno " << error;
      pid_ = -1;
    }
    ::close(down[0]);
    ::close(up[1]);
    out_ = down[1];
    in_ = up[0];
  }
  ~Spawned() {
    kill();
    if (out_ >= 0) ::close(out_);
    if (in_ >= 0) ::close(in_);
  }
  Spawned(const Spawned&) = delete;
  Spawned& operator=(const Spawned&) = delete;

  std::string hear() const { return Talk(in_, out_).hear(); }
  void say(const std::string& line) const { Talk(in_, out_).say(line); }
  /// SIGSTOP, SIGCONT: returns before it has taken effect.
  void send_signal(int signal) const { ::kill(pid_, signal); }

  /// Closes its input and returns its exit code, or minus the signal that ended it.
  int end() {
    if (out_ >= 0) ::close(out_);
    out_ = -1;
    return wait();
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    wait();
  }

 private:
  int wait() {
    int status = 0;
    if (pid_ <= 0 || ::waitpid(pid_, &status, 0) != pid_) return -1000;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  pid_t pid_ = -1;
  int out_ = -1;
  int in_ = -1;
};

}  // namespace weightcast::test
