// Engines on a device, which is a fake in host memory, that follow a trainer on the host.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "driver/cuda.hpp"
#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast {
namespace {

using driver::FakeCuda;
using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;

class DeviceEngine : public test::LocalJob {
 protected:
  explicit DeviceEngine(driver::FakeOptions fake = {.threaded = true})
      : cuda(std::make_shared<FakeCuda>(std::move(fake))) {
    driver::set_cuda(cuda);
  }
  ~DeviceEngine() override {
    driver::set_cuda(nullptr);
    EXPECT_EQ(cuda->held(), driver::FakeCounts{}) << "leaked on the device";
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
  }

  SubscriberOptions options_of(const std::string& name, Activation activation) const {
    SubscriberOptions options = subscriber_options(name);
    options.activation = activation;
    options.device = 0;
    return options;
  }
  static void expect_step(Subscriber& engine, const ToyPolicy& policy, std::uint64_t step) {
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    for (const PlacedTensor& tensor : lease->image().tensors()) ASSERT_EQ(tensor.device, 0);
    ASSERT_EQ(policy.difference(lease->image(), step), "");
  }

  const std::shared_ptr<FakeCuda> cuda;
};

class EachActivation : public DeviceEngine, public ::testing::WithParamInterface<Activation> {};

TEST_P(EachActivation, WorkThatIsQueuedBehindALeaseSeesItsVersionBitForBit) {
  ToyPolicy policy_0, policy_1;
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  Subscriber engine = follow(options_of("one", GetParam()));
  Subscriber other = follow(subscriber_options("on-the-host"));
  const auto stream = *cuda->create_stream(0, false);
  std::atomic<bool> done{false};
  auto worker = std::async(std::launch::async, [&]() -> std::string {
    std::mutex mutex;
    std::string wrong;  // of what the stream found
    std::uint64_t last = 0;
    bool plainly = false;
    while (!done) {
      auto lease = engine.acquire(Clock::now() + 20ms);
      if (!lease) continue;
      // A few looks are queued at a time, as decode steps are.
      while (cuda->pending() > 4 && !done) std::this_thread::yield();
      const std::uint64_t number = lease->version().number;
      if (number < last) return "version " + std::to_string(number) + " came after a later one";
      last = number;
      // Compared by the stream, when the lease may long be over: it is not the lease that keeps the
      // bytes. The image is, but its tensors are a device's.
      std::vector<const std::byte*> tensors;  // in the policy's order
      for (const auto& tensor : policy_0.tensors) {
        tensors.push_back(
            static_cast<const std::byte*>(lease->image().find(tensor.info.name)->data));
      }
      cuda->enqueue(0, stream, [&, tensors, number] {
        for (std::size_t i = 0; i < tensors.size(); ++i) {
          const TensorInfo& info = policy_0.tensors[i].info;
          for (std::size_t at = 0; at < info.bytes(); ++at) {
            if (tensors[i][at] == ToyPolicy::expected(i, at, number)) continue;
            const std::lock_guard lock(mutex);
            wrong = "version " + std::to_string(number) + ": " + info.name + " at byte " +
                    std::to_string(at);
            return;
          }
        }
      });
      if (std::exchange(plainly, !plainly)) {
        lease->release();
      } else {
        lease->release_after(stream);
      }
    }
    if (Status status = cuda->synchronize(0); !status) return status.to_string();
    const std::lock_guard lock(mutex);
    return wrong;
  });

  const bool flowed = ranks.train_until(
      [&] { return engine.status().applied >= 20 && other.status().applied >= 20; });
  done = true;
  EXPECT_EQ(worker.get(), "");
  EXPECT_TRUE(flowed) << engine.status().last_failure;
  const SubscriberStatus status = engine.status();
  EXPECT_EQ(status.activation, GetParam());
  EXPECT_EQ(status.transport, "shm");
  EXPECT_EQ(status.failed, 0u) << status.last_failure;
  EXPECT_EQ(cuda->pageable_copies(), 0u);
  cuda->destroy_stream(0, stream);
}

TEST_P(EachActivation, FollowsTensorsThatComeGoAndChangeAndTheNextRun) {
  ToyPolicy policy;
  Subscriber engine = follow(options_of("one", GetParam()));
  {
    Publisher publisher = open(policy);
    ASSERT_TRUE(bring(publisher, policy, 1));
    expect_step(engine, policy, 1);
    policy.add("added", DType::kF32, {80, 90});
    ASSERT_TRUE(bring(publisher, policy, 2));
    expect_step(engine, policy, 2);
    policy.tensors.erase(policy.tensors.begin() + 1);
    ASSERT_TRUE(bring(publisher, policy, 3));
    expect_step(engine, policy, 3);
  }
  Publisher publisher = open(policy);
  ASSERT_TRUE(bring(publisher, policy, 4));
  expect_step(engine, policy, 4);
}

TEST_P(EachActivation, TakesNothingNewFromVersionToVersion) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", GetParam()));
  for (std::uint64_t step = 1; step <= 6; ++step) ASSERT_TRUE(bring(publisher, policy, step));
  const driver::FakeCounts before = cuda->held();
  const auto allocated = cuda->calls("allocate");
  for (std::uint64_t step = 7; step <= 40; ++step) {
    ASSERT_TRUE(bring(publisher, policy, step));
    expect_step(engine, policy, step);
  }
  EXPECT_EQ(cuda->held(), before);
  EXPECT_EQ(cuda->calls("allocate"), allocated);
}

TEST_P(EachActivation, AfterEveryErrorOfTheDeviceANewerVersionIsTakenIn) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", GetParam()));
  std::uint64_t step = 1;
  ASSERT_TRUE(bring(publisher, policy, step));
  for (const char* const call : {"copy", "record", "done", "digest", "synchronize", "memory"}) {
    cuda->fail(call, Status(Code::kInternal, "injected"));
    // The verdict on this one does not matter: the engine may catch up with it.
    static_cast<void>(bring(publisher, policy, ++step));
    expect_step(engine, policy, engine.acquire(soon())->version().number);
    const auto verdict = bring(publisher, policy, ++step);
    ASSERT_TRUE(engine.wait_for(step, soon())) << call << ": " << engine.status().last_failure;
    expect_step(engine, policy, engine.acquire(soon())->version().number);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EachActivation,
                         ::testing::Values(Activation::kFlip, Activation::kStaged,
                                           Activation::kSerial),
                         [](const auto& given) {
                           return std::string(given.param == Activation::kFlip     ? "Flip"
                                              : given.param == Activation::kStaged ? "Staged"
                                                                                   : "Serial");
                         });

TEST_F(DeviceEngine, AutoTakesFlipAndSaysWhyNotView) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", Activation::kAuto));
  ASSERT_TRUE(bring(publisher, policy, 1));
  expect_step(engine, policy, 1);
  EXPECT_EQ(engine.status().activation, Activation::kFlip);
  EXPECT_TRUE(has(engine.status().activation_reason, "the engine is on a device"))
      << engine.status().activation_reason;
}

TEST_F(DeviceEngine, MemoryThatRunsOutWhileStagingFallsBackALevelAndSaysSo) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  const test::LogLines lines;
  Subscriber engine = follow(options_of("one", Activation::kAuto));
  cuda->fail("allocate", Status(Code::kExhausted, "cudaErrorMemoryAllocation"), 2);
  cuda->fail("allocate", Status(Code::kExhausted, "cudaErrorMemoryAllocation"), 4);
  for (std::uint64_t step = 1; step <= 3; ++step) {
    static_cast<void>(bring(publisher, policy, step));
    ASSERT_TRUE(engine.wait_for(step, soon())) << engine.status().last_failure;
    expect_step(engine, policy, step);
  }
  EXPECT_EQ(engine.status().activation, Activation::kSerial);
  EXPECT_TRUE(lines.contain("event=activation_fell from=flip"));
  EXPECT_TRUE(lines.contain("event=activation_fell from=staged"));
  EXPECT_TRUE(has(engine.status().activation_reason, "staged failed")) << engine.status().activation_reason;
}

TEST_F(DeviceEngine, ALittleDeviceTakesVersionsInSerially) {
  ToyPolicy policy(4);
  std::uint64_t bytes = 0;
  for (const auto& tensor : policy.tensors) bytes += tensor.info.bytes();
  cuda->set_device_bytes(0, bytes * 3 / 2);
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", Activation::kAuto));
  for (std::uint64_t step = 1; step <= 3; ++step) {
    static_cast<void>(bring(publisher, policy, step));
    ASSERT_TRUE(engine.wait_for(step, soon())) << engine.status().last_failure;
    expect_step(engine, policy, step);
  }
  EXPECT_EQ(engine.status().activation, Activation::kSerial);
  EXPECT_TRUE(has(engine.status().activation_reason, "device 0")) << engine.status().activation_reason;
}

TEST_F(DeviceEngine, ALostDeviceKeepsNobodyFromEnding) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", Activation::kFlip));
  ASSERT_TRUE(bring(publisher, policy, 1));
  cuda->lose(0);
  static_cast<void>(bring(publisher, policy, 2, Clock::now() + 1s));
  EXPECT_TRUE(eventually([&] { return engine.status().failed > 0; }));
  EXPECT_TRUE(has(engine.status().last_failure, "lost")) << engine.status().last_failure;
  EXPECT_EQ(engine.acquire(soon())->version().number, 1u) << "the last whole version is served on";
}

TEST_F(DeviceEngine, WithoutItsDeviceItDoesNotOpen) {
  SubscriberOptions options = options_of("one", Activation::kAuto);
  options.device = 3;
  expect_refusal(Subscriber::open(options).status(), Code::kInvalid, {"device is 3", "0 to 0"});
  options.device = 0;
  cuda->fail("device_count", Status(Code::kUnavailable, "no CUDA driver"));
  expect_refusal(Subscriber::open(options).status(), Code::kUnavailable, {"no CUDA driver"});
  options.activation = Activation::kView;
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options);
  static_cast<void>(bring(publisher, policy, 1, Clock::now() + 1s));
  EXPECT_TRUE(eventually([&] { return has(engine.status().last_failure, "on a device"); }))
      << engine.status().last_failure;
}

TEST_F(DeviceEngine, ALayoutOfAShardedPolicyIsPutTogetherOnTheDevice) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  SubscriberOptions options = options_of("one", Activation::kFlip);
  options.layout = {{"part", {64, 30}, {{"embed.weight", {0, 50}, {64, 30}}}},
                    {"layer.0.bias", {97}, {{"layer.0.bias"}}}};
  Subscriber engine = follow(options);
  for (std::uint64_t step = 1; step <= 3; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << engine.status().last_failure;
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease);
    const auto* part = static_cast<const std::byte*>(lease->image().find("part")->data);
    for (std::size_t row = 0; row < 64; ++row) {
      for (std::size_t at = 0; at < 30 * 4; ++at) {
        ASSERT_EQ(part[row * 30 * 4 + at], ToyPolicy::expected(0, (row * 128 + 50) * 4 + at, step));
      }
    }
  }
}

}  // namespace
}  // namespace weightcast
