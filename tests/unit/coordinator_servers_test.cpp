#include "stream/coordinator_servers.hpp"

#include <gtest/gtest.h>

#include <set>

#include "stream/job_keys.hpp"
#include "stream/role_check.hpp"
#include "support/private_place.hpp"

namespace weightcast::stream {
namespace {

TEST(PeerNumber, IsOneForEachServerAndRoutingId) {
  std::set<protocol::Peer> seen{0};
  std::size_t made = 1;
  for (const std::size_t server : {0, 1, 15}) {
    for (const std::string& id :
         {std::string("\0\0\0\0\1", 5), std::string("\0\0\0\1", 4), std::string("\0\0\0\0\x10", 5),
          std::string("\0", 1), std::string("\x10", 1), std::string("\1\0", 2),
          std::string(7, '\xff'), std::string(6, '\xff')}) {
      const auto peer = peer_number(server, id);
      ASSERT_TRUE(peer);
      EXPECT_TRUE(seen.insert(*peer).second);
      EXPECT_EQ(server_of(*peer), server);
      EXPECT_EQ(routing_id_of(*peer), id);
      ++made;
    }
  }
  EXPECT_EQ(seen.size(), made);
  EXPECT_FALSE(peer_number(0, ""));
  EXPECT_FALSE(peer_number(0, std::string(8, 'x')));
  EXPECT_FALSE(peer_number(16, "x"));
}

TEST(RoleCheck, AKeySpeaksForItsRoleAlone) {
  const protocol::Member source{protocol::Role::kSource, "rank-3", 1};
  const protocol::Member receiver{protocol::Role::kReceiver, "worker", 1};
  EXPECT_TRUE(check_role(keys::Role::kTrainer, source).is_ok());
  EXPECT_TRUE(check_role(keys::Role::kEngine, receiver).is_ok());
  EXPECT_TRUE(check_role(std::nullopt, source).is_ok());
  EXPECT_TRUE(check_role(std::nullopt, receiver).is_ok());

  const Status as_source = check_role(keys::Role::kEngine, source);
  EXPECT_EQ(as_source.code(), Code::kDenied);
  EXPECT_EQ(as_source.message(),
            "'rank-3' speaks as a source, but connected with the key of role engine; a key stands "
            "in one list: give it the trainer's keys, or move its public key to trainer.allowed");
  EXPECT_EQ(check_role(keys::Role::kTrainer, receiver).code(), Code::kDenied);
}

TEST(JobKeys, AreMadeOnOneHostAndAskedForBetweenHosts) {
  const test::PrivatePlace base;
  const std::string place = base.path() + "/policy";  // as <base>/<job> here
  EXPECT_EQ(*control_keys({.place = place}, keys::Role::kEngine), nullptr);
  const auto trainer =
      control_keys({.place = place, .listen = "127.0.0.1:0"}, keys::Role::kTrainer);
  const auto engine = keys_of_job({.place = place}, keys::Role::kEngine);
  ASSERT_TRUE(trainer) << trainer.status().to_string();
  ASSERT_TRUE(engine) << engine.status().to_string();
  EXPECT_EQ((*engine)->server_key(keys::Role::kTrainer), (*trainer)->own().public_key);
  for (const KeyChoice& choice : {KeyChoice{.place = place, .listen = "10.0.0.1:1"},
                                  {.place = place, .listen = "*:1"},
                                  {.place = place, .coordinator = "127.0.0.1:1"}}) {
    const auto refused = control_keys(choice, keys::Role::kTrainer);
    EXPECT_EQ(refused.status().code(), Code::kInvalid);
    EXPECT_NE(refused.status().message().find("weightcast keygen --directory"), std::string::npos);
    KeyChoice with_folder = choice;
    with_folder.folder = base.path() + "/.keys";
    EXPECT_TRUE(control_keys(with_folder, keys::Role::kTrainer).is_ok());
  }
}

}  // namespace
}  // namespace weightcast::stream
