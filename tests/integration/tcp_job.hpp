// A job whose engines reach the trainer over TCP, as from another host.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <weightcast/keys.hpp>

#include "base/host.hpp"
#include "integration/local_job.hpp"
#include "protocol/wire.hpp"
#include "stream/control_socket.hpp"
#include "support/recording_proxy.hpp"

namespace weightcast::test {

class TcpJob : public LocalJob {
 protected:
  void SetUp() override { ASSERT_TRUE(make_keys(keys).is_ok()); }

  PublisherOptions listening(const std::string& at = "127.0.0.1:0") const {
    PublisherOptions options = publisher_options();
    options.listen = at;
    options.keys = keys;
    return options;
  }

  /// An engine as on another host: nobody announces anything where it looks.
  SubscriberOptions remote(const std::string& name, std::uint16_t port) const {
    SubscriberOptions options = subscriber_options(name);
    options.directory = elsewhere.path();
    options.coordinator = "127.0.0.1:" + std::to_string(port);
    options.keys = keys;
    return options;
  }

  static std::uint16_t port_of(const Publisher& publisher) {
    const std::string at = publisher.status().listening;
    EXPECT_TRUE(at.starts_with("tcp://127.0.0.1:")) << at;
    const auto parsed = base::parse_host_port("listening", at.substr(6));
    return parsed ? parsed->port : 0;
  }

  void expect_versions(Publisher& publisher, ToyPolicy& policy, Subscriber& engine,
                       const std::set<std::string>& names, int count) {
    for (int i = 0; i < count; ++i) {
      const auto verdict = bring(publisher, policy, ++step);
      ASSERT_TRUE(verdict) << verdict.status().to_string();
      ASSERT_EQ(std::set<std::string>(verdict->applied.begin(), verdict->applied.end()), names);
      ASSERT_EQ(verdict->lost, std::vector<std::string>{});
      const auto lease = engine.acquire(soon());
      ASSERT_TRUE(lease) << lease.status().to_string();
      ASSERT_EQ(lease->version(), verdict->version);
      ASSERT_EQ(policy.difference(lease->image(), step), "");
    }
  }

  /// A peer that says what it likes, with keys of that role.
  std::unique_ptr<stream::ControlClient> stranger(std::uint16_t port, keys::Role role) const {
    auto ring = keys::KeyRing::load(keys, role);
    EXPECT_TRUE(ring) << ring.status().to_string();
    auto client =
        stream::ControlClient::connect("tcp://127.0.0.1:" + std::to_string(port), {},
                                       std::make_shared<const keys::KeyRing>(std::move(*ring)));
    EXPECT_TRUE(client) << client.status().to_string();
    return std::move(*client);
  }

  static bool say(stream::ControlClient& client, const protocol::Message& message) {
    return eventually(
        [&] { return client.send(std::span<const char>(protocol::encode(message))).is_ok(); });
  }

  static std::optional<protocol::Message> hear(stream::ControlClient& client) {
    std::optional<protocol::Message> heard;
    eventually([&] {
      if (const auto got = client.receive()) {
        auto message =
            protocol::decode(std::as_bytes(std::span(got->bytes.data(), got->bytes.size())));
        if (message) heard = std::move(*message);
      }
      return heard.has_value();
    });
    return heard;
  }

  PrivatePlace elsewhere;
  PrivatePlace of_keys;
  const std::string keys = of_keys.path() + "/keys";
  std::uint64_t step = 0;
};

}  // namespace weightcast::test
