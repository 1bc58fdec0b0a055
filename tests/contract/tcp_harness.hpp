// A slab with a TcpServer beside it, and a transport that reads from it.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "contract/transport_harness.hpp"
#include "keys/key_ring.hpp"
#include "staging/object_name.hpp"
#include "support/private_place.hpp"
#include "transport/shm/slot_store.hpp"
#include "transport/tcp/tcp_server.hpp"
#include "transport/tcp/tcp_transport.hpp"

namespace weightcast::transport {

/// The keys of one job, as each role sees them.
class TestKeys {
 public:
  TestKeys() : folder_(place_.path() + "/keys") {
    EXPECT_TRUE(keys::KeyRing::make(folder_).is_ok());
  }
  std::shared_ptr<const keys::KeyRing> as(keys::Role role) const {
    auto ring = keys::KeyRing::load(folder_, role);
    EXPECT_TRUE(ring.is_ok()) << ring.status().to_string();
    return ring.is_ok() ? std::make_shared<const keys::KeyRing>(std::move(*ring)) : nullptr;
  }

 private:
  test::PrivatePlace place_;
  std::string folder_;
};

/// Takes hold only while nobody asks TestSlab::can_overwrite(): to ask is to take the slot for a
/// moment, and what asks to read it just then is told, for good, that its source writes into it.
class UndisturbedStore final : public SegmentStore {
 public:
  UndisturbedStore(std::string prefix, std::shared_ptr<std::mutex> asking)
      : store_(std::move(prefix)), asking_(std::move(asking)) {}
  Result<std::shared_ptr<Segment>> hold(const SegmentAddress& address) override {
    const std::lock_guard guard(*asking_);
    return store_.hold(address);
  }

 private:
  SlotStore store_;
  const std::shared_ptr<std::mutex> asking_;
};

/// A source's slab, which can begin anew.
class TestSlab {
 public:
  explicit TestSlab(std::uint64_t slot_bytes = kSlotBytes) : slot_bytes_(slot_bytes) { begin(); }
  ~TestSlab() {
    slab_.reset();
    staging::sweep(job_);
    EXPECT_TRUE(test::shm_objects("." + job_ + ".").empty()) << "left behind in /dev/shm";
  }

  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes, const std::string& endpoint) {
    if (!slab_->try_lock(slot)) return std::nullopt;
    const Version version{kRun, number};
    const auto generation = slab_->begin_write(slot);
    test::fill_pattern(slab_->payload(slot).first(bytes), number);
    slab_->seal(slot, version, bytes);
    slab_->unlock(slot);
    return SegmentAddress{slab_->object_name(slot), version, generation, bytes, endpoint};
  }

  bool can_overwrite(std::uint32_t slot) {
    const std::lock_guard guard(*asking_);
    const bool can = slab_->try_lock(slot);
    if (can) slab_->unlock(slot);
    return can;
  }

  void restart() {
    slab_.reset();
    begin();
  }

  /// Of all lives of this source.
  std::shared_ptr<SegmentStore> store() const {
    return std::make_shared<UndisturbedStore>(
        "weightcast." + std::to_string(::geteuid()) + "." + job_ + ".", asking_);
  }

 private:
  static constexpr Run kRun{1700000000000000, 3};

  void begin() {
    auto slab =
        staging::Slab::create({{job_, "policy", kRun, 0, ++incarnation_}, kSlots, slot_bytes_});
    ASSERT_TRUE(slab.is_ok()) << slab.status().to_string();
    slab_ = std::move(*slab);
  }

  const std::uint64_t slot_bytes_;
  const std::string job_ = test::unique_job();
  std::uint64_t incarnation_ = 0;
  std::unique_ptr<staging::Slab> slab_;
  const std::shared_ptr<std::mutex> asking_ = std::make_shared<std::mutex>();
};

inline std::unique_ptr<TcpServer> start_server(const TcpServerOptions& options,
                                               std::shared_ptr<SegmentStore> store) {
  auto server = TcpServer::start(options, std::move(store));
  EXPECT_TRUE(server.is_ok()) << server.status().to_string();
  return server.is_ok() ? std::move(*server) : nullptr;
}

/// For the contract. The server outlives the source's lives: it serves what is there.
template <bool kEncrypted>
class TcpHarness {
 public:
  static constexpr bool kAsksAPeer = true;

  TcpHarness() {
    TcpServerOptions options;
    if (kEncrypted) options.keys = keys_.as(keys::Role::kTrainer);
    server_ = start_server(options, slab_.store());
    TcpOptions client;
    if (kEncrypted) client.keys = keys_.as(keys::Role::kEngine);
    transport_ = std::make_unique<TcpTransport>(client);
  }

  Transport& transport() { return *transport_; }
  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes) {
    return slab_.publish(slot, number, bytes, server_->endpoint());
  }
  bool can_overwrite(std::uint32_t slot) { return slab_.can_overwrite(slot); }
  void restart() { slab_.restart(); }

 private:
  TestKeys keys_;
  TestSlab slab_;
  std::unique_ptr<TcpServer> server_;
  std::unique_ptr<TcpTransport> transport_;
};

}  // namespace weightcast::transport
