#include "keys/key_ring.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include <weightcast/keys.hpp>
#include <weightcast/types.hpp>

#include "base/private_directory.hpp"
#include "keys/key_file.hpp"
#include "support/child_process.hpp"
#include "support/private_place.hpp"

namespace weightcast::keys {
namespace {

namespace fs = std::filesystem;
using test::ChildProcess;
using test::Talk;

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string raw(const std::string& key) {
  std::string bytes(kRawKeyBytes, '\0');
  EXPECT_NE(zmq_z85_decode(reinterpret_cast<std::uint8_t*>(bytes.data()), key.c_str()), nullptr);
  return bytes;
}

class KeyRingTest : public testing::Test {
 protected:
  void make() { ASSERT_TRUE(KeyRing::make(folder_).is_ok()); }

  void write(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0600);
  }

  static void expect_refusal(const Status& status, Code code, const std::string& in_text) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(in_text), std::string::npos) << status.message();
  }
  void expect_refused(Role role, Code code, const std::string& in_text) const {
    expect_refusal(KeyRing::load(folder_, role).status(), code, in_text);
  }

  test::PrivatePlace place_;
  const std::string folder_ = place_.path() + "/keys";
};

TEST_F(KeyRingTest, TheTwoRolesOfAFolderKnowEachOther) {
  make();

  const auto trainer = KeyRing::load(folder_, Role::kTrainer);
  const auto engine = KeyRing::load(folder_ + "/", Role::kEngine);

  ASSERT_TRUE(trainer) << trainer.status().to_string();
  ASSERT_TRUE(engine) << engine.status().to_string();
  EXPECT_EQ(trainer->role(), Role::kTrainer);
  EXPECT_EQ(engine->server_key(Role::kTrainer), trainer->own().public_key);
  EXPECT_EQ(trainer->server_key(Role::kEngine), engine->own().public_key);
  EXPECT_NE(trainer->own().public_key, engine->own().public_key);
  EXPECT_EQ(public_key_of(engine->own().secret_key), engine->own().public_key);
  for (const KeyRing* ring : {&*trainer, &*engine}) {
    EXPECT_EQ(ring->role_of(raw(trainer->own().public_key)), Role::kTrainer);
    EXPECT_EQ(ring->role_of(raw(engine->own().public_key)), Role::kEngine);
    EXPECT_EQ(ring->role_of(raw(engine->own().secret_key)), std::nullopt);
    EXPECT_EQ(ring->role_of(engine->own().public_key), std::nullopt);  // not raw
    EXPECT_EQ(ring->role_of(""), std::nullopt);
  }
}

TEST_F(KeyRingTest, WhatIsMadeIsForTheOwnerAlone) {
  make();

  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    ++files;
    EXPECT_EQ(entry.status().permissions(), fs::perms::owner_read | fs::perms::owner_write)
        << entry.path();
  }
  EXPECT_EQ(files, 6u);
  EXPECT_FALSE(fs::exists(folder_ + ".new"));
}

TEST_F(KeyRingTest, NothingIsEverOverwritten) {
  make();
  const std::string before = text_of(folder_ + "/trainer.secret");
  expect_refusal(KeyRing::make(folder_), Code::kExists, "never overwritten");
  expect_refusal(make_keys(folder_ + "//"), Code::kExists, "never overwritten");
  EXPECT_EQ(text_of(folder_ + "/trainer.secret"), before);
  EXPECT_FALSE(fs::exists(folder_ + ".new"));

  const std::string other = place_.path() + "/other";
  fs::create_directory(other);
  EXPECT_TRUE(KeyRing::make(other).is_ok());  // it was empty
  const std::string file = place_.path() + "/file";
  std::ofstream{file} << "somebody's";
  expect_refusal(KeyRing::make(file), Code::kExists, "name another folder");
  EXPECT_EQ(text_of(file), "somebody's");
  expect_refusal(KeyRing::make(place_.path() + "/no/such"), Code::kNotFound, "a directory that");
  expect_refusal(KeyRing::make(""), Code::kInvalid, "empty name");
  fs::create_directory(place_.path() + "/busy.new");
  expect_refusal(KeyRing::make(place_.path() + "/busy"), Code::kExists, "remove that directory");
}

TEST_F(KeyRingTest, AMissingFileIsNamedWithTheCommandThatMakesIt) {
  expect_refused(Role::kEngine, Code::kNotFound, "weightcast keygen --directory");
  expect_refused(Role::kEngine, Code::kNotFound, folder_);
  make();
  for (const char* name :
       {"trainer.public", "engine.public", "trainer.allowed", "engine.allowed", "engine.secret"}) {
    const std::string path = folder_ + "/" + name;
    fs::rename(path, path + ".away");
    expect_refused(Role::kEngine, Code::kNotFound,
                   std::string(name) + "' does not exist; make keys");
    fs::rename(path + ".away", path);
  }
  // The other side's secret key is not needed, and should not be here.
  fs::remove(folder_ + "/trainer.secret");
  EXPECT_TRUE(KeyRing::load(folder_, Role::kEngine).is_ok());
  expect_refused(Role::kTrainer, Code::kNotFound, "trainer.secret");
}

TEST_F(KeyRingTest, ASecretThatOthersMayReadIsRefused) {
  make();
  for (const mode_t mode : {0640, 0604, 0660, 0610}) {
    ::chmod((folder_ + "/engine.secret").c_str(), mode);
    expect_refused(Role::kEngine, Code::kDenied, "chmod go= it");
  }
  EXPECT_TRUE(KeyRing::load(folder_, Role::kTrainer).is_ok());  // has a file of its own
}

TEST_F(KeyRingTest, AFolderOrListThatOthersMayWriteToIsRefused) {
  make();
  ::chmod(folder_.c_str(), 0755);
  ::chmod((folder_ + "/trainer.allowed").c_str(), 0644);
  EXPECT_TRUE(KeyRing::load(folder_, Role::kEngine).is_ok());
  for (const char* name : {"trainer.public", "trainer.allowed", "engine.allowed"}) {
    ::chmod((folder_ + "/" + name).c_str(), 0664);
    expect_refused(Role::kEngine, Code::kDenied, "chmod go-w it");
    ::chmod((folder_ + "/" + name).c_str(), 0644);
  }
  ::chmod(folder_.c_str(), 0777);
  expect_refused(Role::kEngine, Code::kDenied, "chmod go-w it");
  ::chmod(folder_.c_str(), 0700);
}

TEST_F(KeyRingTest, SomebodyElsesFileIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  make();
  ASSERT_EQ(::chown((folder_ + "/trainer.public").c_str(), 65534, 65534), 0);
  expect_refused(Role::kEngine, Code::kDenied, "belong");
  ASSERT_EQ(::chown((folder_ + "/trainer.public").c_str(), 0, 0), 0);
  ASSERT_EQ(::chown(folder_.c_str(), 65534, 65534), 0);
  expect_refused(Role::kEngine, Code::kDenied, "belong");
}

TEST_F(KeyRingTest, LinksAndPipesAreRefusedWithoutWaiting) {
  make();
  const std::string secret = folder_ + "/engine.secret";
  fs::rename(secret, place_.path() + "/elsewhere");
  fs::create_symlink(place_.path() + "/elsewhere", secret);
  expect_refused(Role::kEngine, Code::kDenied, "engine.secret");
  fs::remove(secret);
  ASSERT_EQ(::mkfifo(secret.c_str(), 0600), 0);
  expect_refused(Role::kEngine, Code::kDenied, "ordinary file");
  fs::remove(secret);
  fs::create_directory(secret);
  expect_refused(Role::kEngine, Code::kDenied, "engine.secret");

  const std::string link = place_.path() + "/link";
  fs::create_directory_symlink(folder_, link);
  expect_refusal(KeyRing::load(link, Role::kTrainer).status(), Code::kDenied, "a link");
  expect_refusal(KeyRing::load_or_make(link, Role::kTrainer).status(), Code::kDenied, "a link");
}

TEST_F(KeyRingTest, DamagedFilesAreRefusedAndNeverQuoted) {
  make();
  const std::string secret = text_of(folder_ + "/engine.secret");
  const std::string key = KeyRing::load(folder_, Role::kEngine)->own().secret_key;
  const std::vector<std::string> damaged = {"",
                                            "# nothing else\n",
                                            key.substr(1) + "\n",
                                            key + "x\n",
                                            key + key + "\n",
                                            key + "\n" + key + "\n",
                                            key + " and more\n",
                                            key.substr(0, 39) + " \n",
                                            key.substr(0, 39) + "\x7f\n",
                                            key.substr(0, 39) + "\xff\n",
                                            key.substr(0, 39) + "\"\n",
                                            std::string(40, '%') + "\n",
                                            std::string(40, '\0') + "\n",
                                            std::string(kMaxKeyFileBytes + 1, '\n')};
  for (const std::string& text : damaged) {
    write("engine.secret", text);
    const auto loaded = KeyRing::load(folder_, Role::kEngine);
    expect_refusal(loaded.status(), Code::kInvalid, "engine.secret");
    EXPECT_EQ(loaded.status().message().find(key.substr(1, 20)), std::string::npos);
  }
  write("engine.secret", "\n  # a comment\r\n\t" + key + "  # another\n\n");
  EXPECT_TRUE(KeyRing::load(folder_, Role::kEngine).is_ok());
  // Another pair's.
  write("engine.secret", make_pair()->secret_key + "\n");
  expect_refused(Role::kEngine, Code::kInvalid, "do not belong together");
  write("engine.secret", secret);
  EXPECT_TRUE(KeyRing::load(folder_, Role::kEngine).is_ok());
}

TEST_F(KeyRingTest, ListsHoldManyKeysOfOneRoleEach) {
  make();
  const std::string more = make_pair()->public_key;
  write("engine.allowed", text_of(folder_ + "/engine.allowed") + more + " # host b\n");
  const auto ring = KeyRing::load(folder_, Role::kTrainer);
  ASSERT_TRUE(ring) << ring.status().to_string();
  EXPECT_EQ(ring->role_of(raw(more)), Role::kEngine);
  EXPECT_EQ(ring->role_of(raw(ring->server_key(Role::kEngine))), Role::kEngine);

  write("engine.allowed", "");
  const auto alone = KeyRing::load(folder_, Role::kTrainer);
  ASSERT_TRUE(alone) << alone.status().to_string();
  EXPECT_EQ(alone->role_of(raw(more)), std::nullopt);

  write("engine.allowed", alone->own().public_key + "\n");
  expect_refused(Role::kTrainer, Code::kInvalid, "one role");
  write("engine.allowed", more + "\nnonsense\n");
  expect_refused(Role::kTrainer, Code::kInvalid, "line 2 of ");
  std::string many;
  for (std::size_t i = 0; i <= kMaxListedKeys; ++i) many += more + "\n";
  write("engine.allowed", many);
  expect_refused(Role::kTrainer, Code::kInvalid, "at most 10000 keys");
}

TEST_F(KeyRingTest, NoKeyBeginsWithTheCommentSign) {
  // The greatest value of a group of five characters is 2^32 - 1.
  EXPECT_EQ(encode_key(std::string(kRawKeyBytes, '\xff')).front(), '%');
  EXPECT_EQ(encode_key(std::string(kRawKeyBytes, '\0')), std::string(kKeyCharacters, '0'));
  EXPECT_EQ(encode_key("short"), "");
  for (int i = 0; i < 200; ++i) {
    const auto pair = make_pair();
    ASSERT_TRUE(pair);
    ASSERT_TRUE(is_key(pair->public_key));
    const auto parsed = parse_keys(pair->public_key + " # it\n", "x");
    ASSERT_TRUE(parsed) << pair->public_key;
    ASSERT_EQ(*parsed, std::vector<std::string>{pair->public_key});
  }
}

TEST_F(KeyRingTest, OnOneHostWhoeverComesFirstMakesThem) {
  const auto engine = KeyRing::load_or_make(folder_, Role::kEngine);
  const auto trainer = KeyRing::load_or_make(folder_, Role::kTrainer);

  ASSERT_TRUE(engine) << engine.status().to_string();
  ASSERT_TRUE(trainer) << trainer.status().to_string();
  EXPECT_EQ(engine->server_key(Role::kTrainer), trainer->own().public_key);
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);

  fs::remove(folder_ + "/engine.allowed");
  expect_refusal(KeyRing::load_or_make(folder_, Role::kEngine).status(), Code::kNotFound,
                 "remove '" + folder_ + "' while no process of the job runs");
  EXPECT_FALSE(fs::exists(folder_ + "/engine.allowed"));
  EXPECT_EQ(KeyRing::load_or_make("keys", Role::kEngine).status().code(), Code::kInvalid);
}

TEST_F(KeyRingTest, NoKeysAreMadeWhereOthersCouldReplaceThem) {
  ::chmod(place_.path().c_str(), 0755);
  expect_refusal(KeyRing::load_or_make(folder_, Role::kEngine).status(), Code::kDenied,
                 "chmod go=");
  EXPECT_FALSE(fs::exists(folder_));
  ::chmod(place_.path().c_str(), 0700);
}

TEST_F(KeyRingTest, WhatAnEndedAttemptLeftIsClearedUp) {
  fs::create_directory(folder_ + ".new");
  ::chmod((folder_ + ".new").c_str(), 0700);
  std::ofstream(folder_ + ".new/trainer.secret") << "half";
  ::chmod((folder_ + ".new/trainer.secret").c_str(), 0600);

  const auto ring = KeyRing::load_or_make(folder_, Role::kTrainer);

  ASSERT_TRUE(ring) << ring.status().to_string();
  EXPECT_FALSE(fs::exists(folder_ + ".new"));
}

TEST_F(KeyRingTest, EightProcessesThatComeAtOnceAgree) {
  for (int round = 0; round < 5; ++round) {
    const std::string folder = folder_ + std::to_string(round);
    std::array<std::unique_ptr<ChildProcess>, 8> members;
    for (std::size_t i = 0; i < members.size(); ++i) {
      members[i] = std::make_unique<ChildProcess>([&, i](const Talk& talk) {
        talk.hear();
        const auto ring =
            KeyRing::load_or_make(folder, i % 2 == 0 ? Role::kTrainer : Role::kEngine);
        talk.say(ring ? ring->server_key(Role::kTrainer) + ring->server_key(Role::kEngine)
                      : ring.status().to_string());
        return 0;
      });
    }
    for (auto& member : members) member->say("go");
    const auto made = [&] { return KeyRing::load(folder, Role::kTrainer); };
    std::vector<std::string> answers;
    for (auto& member : members) answers.push_back(member->hear());
    ASSERT_TRUE(made()) << made().status().to_string();
    const std::string keys = made()->server_key(Role::kTrainer) + made()->server_key(Role::kEngine);
    for (const std::string& answer : answers) EXPECT_EQ(answer, keys);
    EXPECT_FALSE(fs::exists(folder + ".new"));
  }
}

TEST_F(KeyRingTest, AProcessThatIsStoppedWhileItMakesKeysIsWaitedForAndThenKilledWithoutHarm) {
  ChildProcess maker([&](const Talk& talk) {
    const auto busy = base::lock_private_directory(place_.path());
    fs::create_directory(folder_ + ".new");
    ::chmod((folder_ + ".new").c_str(), 0700);
    talk.say(busy ? "busy" : busy.status().to_string());
    talk.hear();
    return 0;
  });
  ASSERT_EQ(maker.hear(), "busy");
  ChildProcess other([&](const Talk& talk) {
    talk.say("started");
    talk.say(KeyRing::load_or_make(folder_, Role::kEngine).status().to_string());
    return 0;
  });
  ASSERT_EQ(other.hear(), "started");
  EXPECT_FALSE(fs::exists(folder_));

  maker.kill();

  EXPECT_EQ(other.hear(), "ok");
  EXPECT_TRUE(KeyRing::load(folder_, Role::kTrainer).is_ok());
}

}  // namespace
}  // namespace weightcast::keys
