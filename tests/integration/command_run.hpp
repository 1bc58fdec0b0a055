// The command, run as a user runs it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "support/private_place.hpp"

extern char** environ;

namespace weightcast::test {

struct Ended {
  int code = -1;  ///< minus the signal where one ended it
  std::string out;
  std::string err;
};

inline std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs a program to its end, with "NAME=value" over this process's environment and without
/// WEIGHTCAST_* of it.
/// @param folder where its output goes meanwhile
/// @param meanwhile called again and again while it runs
inline Ended run_program(std::vector<std::string> arguments, const std::string& folder,
                         std::vector<std::string> variables = {},
                         const std::function<void()>& meanwhile = {}) {
  const std::string out = folder + "/out";
  const std::string err = folder + "/err";
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  for (char** its = environ; *its != nullptr; ++its) {
    if (!std::string(*its).starts_with("WEIGHTCAST_")) envp.push_back(*its);
  }
  envp.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = -1;
  const int spawned = ::posix_spawn(&pid, argv[0], &files, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&files);
  EXPECT_EQ(spawned, 0) << argv[0];
  if (spawned != 0) return {};
  int status = 0;
  while (true) {
    const pid_t ended = ::waitpid(pid, &status, meanwhile ? WNOHANG : 0);
    if (ended == pid) break;
    if (ended < 0) return {};
    meanwhile();
    ::poll(nullptr, 0, 1);  // lets it have the processor
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), text_of(out), text_of(err)};
}

}  // namespace weightcast::test
