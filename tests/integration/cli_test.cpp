// The command, run as a user runs it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <weightcast/version.hpp>

#include "keys/key_ring.hpp"
#include "support/private_place.hpp"

extern char** environ;

namespace weightcast {
namespace {

namespace fs = std::filesystem;

struct Ended {
  int code = -1;  ///< minus the signal where one ended it
  std::string out;
  std::string err;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Command : public ::testing::Test {
 protected:
  Ended run(std::vector<std::string> arguments) const {
    const std::string out = place_.path() + "/out";
    const std::string err = place_.path() + "/err";
    arguments.insert(arguments.begin(), WEIGHTCAST_COMMAND);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid = -1;
    const int spawned = ::posix_spawn(&pid, argv[0], &files, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    EXPECT_EQ(spawned, 0) << argv[0];
    int status = 0;
    if (spawned != 0 || ::waitpid(pid, &status, 0) != pid) return {};
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), text_of(out),
            text_of(err)};
  }

  static std::string text_of(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  test::PrivatePlace place_;
  const std::string keys_ = place_.path() + "/keys";
};

TEST_F(Command, KeygenMakesKeysThatBothRolesCanUse) {
  const Ended ended = run({"keygen", "--directory", keys_});

  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  for (const keys::Role role : {keys::Role::kTrainer, keys::Role::kEngine}) {
    const auto ring = keys::KeyRing::load(keys_, role);
    ASSERT_TRUE(ring) << ring.status().to_string();
    EXPECT_FALSE(has(ended.out, ring->own().secret_key)) << "a secret is printed";
    const std::string name(keys::role_name(role));
    for (const char* ending : {".secret", ".public", ".allowed"}) {
      EXPECT_TRUE(has(ended.out, name + ending)) << ended.out;
    }
  }
  EXPECT_TRUE(has(ended.out, keys_));
  EXPECT_TRUE(has(ended.out, "engine.secret     SECRET"));
  EXPECT_TRUE(has(ended.out, "Copy the folder to every host"));
}

TEST_F(Command, KeygenNeverOverwrites) {
  ASSERT_EQ(run({"keygen", "--directory", keys_}).code, 0);
  const std::string before = text_of(keys_ + "/engine.secret");

  const Ended again = run({"keygen", "--directory", keys_});

  EXPECT_EQ(again.code, 1);
  EXPECT_EQ(again.out, "");
  EXPECT_TRUE(has(again.err, "never overwritten")) << again.err;
  EXPECT_EQ(text_of(keys_ + "/engine.secret"), before);
}

TEST_F(Command, FailuresNameTheFolder) {
  const Ended ended = run({"keygen", "--directory", place_.path() + "/no/such"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_TRUE(has(ended.err, place_.path() + "/no/such")) << ended.err;
  EXPECT_TRUE(has(ended.err, "a directory that exists")) << ended.err;
}

TEST_F(Command, SaysItsVersion) {
  const Ended ended = run({"--version"});
  EXPECT_EQ(ended.code, 0);
  EXPECT_EQ(ended.out, std::string("weightcast ") + library_version() + "\n");
}

TEST_F(Command, AWrongLineIsExplained) {
  for (const std::vector<std::string>& line : {std::vector<std::string>{},
                                               {"keygen"},
                                               {"nonsense"},
                                               {"keygen", "--directory"},
                                               {"keygen", "--directory", keys_, "--force"}}) {
    const Ended ended = run(line);
    EXPECT_EQ(ended.code, 2) << ended.out << ended.err;
    EXPECT_NE(ended.err, "");
  }
  EXPECT_FALSE(fs::exists(keys_));
  const Ended help = run({"keygen", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(has(help.out, "--directory")) << help.out;
}

}  // namespace
}  // namespace weightcast
