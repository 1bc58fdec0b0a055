// Trainers and engines on GPUs of their own that meet over NCCL. GPUs and NCCL are fakes in host memory;
// sockets, shared memory and threads are real.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "integration/device_toy.hpp"
#include "integration/local_job.hpp"
#include "support/fake_nccl.hpp"

namespace weightcast::test {

class NcclJob : public LocalJob {
 protected:
  /// @param shares whether engines can open each other's memory
  /// @param are_peers and that of another device
  void open_devices(int count, bool shares = true, bool are_peers = true) {
    cuda = std::make_shared<driver::FakeCuda>(
        driver::FakeOptions{.devices = count,
                            .threaded = true,
                            .opens_own_memory = shares,
                            .are_peers = are_peers});
    if (!nccl) nccl = std::make_shared<driver::FakeNccl>(cuda);
    driver::set_cuda(cuda);
    driver::set_nccl(nccl);
  }
  void TearDown() override {
    engines.clear();
    publishers.clear();
    devices.clear();
    driver::set_nccl(nullptr);
    driver::set_cuda(nullptr);
    EXPECT_EQ(nccl->violations(), std::vector<std::string>{});
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
    LocalJob::TearDown();
    if (expects_leaks) return;
    auto left = nccl->held();
    left.unused_ids = 0;  // of members that never came: NCCL knows no end for those either
    EXPECT_EQ(left, driver::FakeNcclCounts{});
    EXPECT_EQ(cuda->held(), driver::FakeCounts{});
  }

  /// Ranks on the first devices. All of their policies are the same.
  void train(std::uint32_t ranks, Mode mode, Staging staging) {
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      policies.push_back(std::make_unique<ToyPolicy>(4));
      devices.push_back(
          std::make_unique<DeviceToy>(*cuda, *policies.back(), static_cast<int>(rank)));
      PublisherOptions options = publisher_options();
      options.rank = rank;
      options.world_size = ranks;
      options.mode = mode;
      options.staging = staging;
      options.transport = TransportChoice::kNccl;
      options.attempt_timeout = attempt_timeout;
      auto opened = Publisher::open(options, devices.back()->lister());
      ASSERT_TRUE(opened) << opened.status().to_string();
      publishers.push_back(std::make_unique<Publisher>(std::move(*opened)));
    }
    ASSERT_TRUE(eventually([&] {
      return std::all_of(publishers.begin(), publishers.end(),
                         [](const auto& one) { return one->status().connected; });
    }));
  }

  SubscriberOptions engine_options(int device) const {
    SubscriberOptions options = subscriber_options("gpu-" + std::to_string(device));
    options.device = device;
    options.activation = Activation::kFlip;
    options.transport = TransportChoice::kNccl;
    return options;
  }
  void add_engine(const SubscriberOptions& options) {
    engines.push_back(std::make_unique<Subscriber>(follow(options)));
  }
  /// Engines that share a GPU.
  void add_engines_on(int device, int count) {
    for (int i = 0; i < count; ++i) {
      SubscriberOptions options = engine_options(device);
      options.name += "-" + std::to_string(i);
      add_engine(options);
    }
  }
  void add_engines(int count) {
    for (int i = 0; i < count; ++i) {
      add_engine(engine_options(static_cast<int>(publishers.size()) + i));
    }
  }

  /// One training step on all ranks, published.
  void publish() {
    ++step;
    for (std::size_t rank = 0; rank < publishers.size(); ++rank) {
      ASSERT_TRUE(publishers[rank]->fence());
      devices[rank]->step(step);
    }
    for (std::size_t rank = 0; rank < publishers.size(); ++rank) {
      publishers[rank]->publish(devices[rank]->lister());
    }
  }
  /// @return whether engine `index` came to serve step `want` or later
  bool serves(std::size_t index, std::uint64_t want) {
    auto lease = engines[index]->acquire(Clock::now());
    return lease && lease->version().number >= want;
  }
  /// What an engine serves is what was trained at that step. Steps and points are counted alike where
  /// no point is coalesced.
  void expect_whole(std::size_t index) {
    const auto lease = engines[index]->acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    EXPECT_EQ(ToyPolicy(4).difference(lease->image(), lease->version().number), "")
        << "engine " << index;
  }
  void expect_whole_of(std::size_t index, std::uint64_t number) {
    const auto lease = engines[index]->acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    EXPECT_EQ(lease->version().number, number);
    expect_whole(index);
  }
  /// A point without a grant is carried by the next one.
  void publish_now_and_then() {
    if (Clock::now() <= next_publish_) return;
    next_publish_ = Clock::now() + 200ms;
    publish();
  }
  /// Publishes another step, and more of them until `done`.
  bool publish_until(const std::function<bool()>& done) {
    publish();
    next_publish_ = Clock::now() + 200ms;
    return eventually([&] {
      if (done()) return true;
      publish_now_and_then();
      return false;
    });
  }
  /// Another step that all engines serve in the end, or a later one.
  void bring() {
    publish();
    const std::uint64_t want = step;
    for (std::size_t i = 0; i < engines.size(); ++i) {
      ASSERT_TRUE(eventually([&] {
        if (serves(i, want)) return true;
        publish_now_and_then();
        return false;
      })) << "engine " << i << ": " << engines[i]->status().last_failure;
      expect_whole(i);
    }
    next_publish_ = Clock::now() + 200ms;
  }

  /// Brings versions until some come without a new communicator, and `condition`. On a loaded machine an
  /// engine may come too late for the others' session, and has one of its own.
  bool settles(const std::function<bool()>& condition = [] { return true; }) {
    for (int tries = 0; tries < 10 && !HasFatalFailure(); ++tries) {
      const auto joined = nccl->calls("init_rank");
      for (int i = 0; i < 3; ++i) bring();
      if (nccl->calls("init_rank") == joined && condition()) return true;
    }
    return false;
  }

  std::shared_ptr<driver::FakeCuda> cuda;
  std::shared_ptr<driver::FakeNccl> nccl;
  std::vector<std::unique_ptr<ToyPolicy>> policies;
  std::vector<std::unique_ptr<DeviceToy>> devices;
  std::vector<std::unique_ptr<Publisher>> publishers;
  std::vector<std::unique_ptr<Subscriber>> engines;
  std::uint64_t step = 0;
  bool expects_leaks = false;  ///< memory that a kernel may still touch is not given back
  Duration attempt_timeout = 10s;
  Clock::time_point next_publish_ = Clock::now() + 200ms;
};

}  // namespace weightcast::test
