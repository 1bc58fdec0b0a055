// Which activation an engine ends up with: by budget, by what can be allocated, by what it wants; and
// that it takes the memory that it says.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <fstream>

#include "base/failpoint.hpp"
#include "integration/local_job.hpp"
#include "support/sanitized.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::kSanitized;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1024 * 1024;

/// Bytes of a field of /proc/self/status.
std::uint64_t own_memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::uint64_t kib = 0;
    if (word == field + ":" && status >> kib) return kib * 1024;
  }
  ADD_FAILURE() << "no " << field;
  return 0;
}

/// An engine that wants its tensors at fixed addresses.
class FixedApplier : public Applier {
 public:
  Status begin(const Version&, const std::vector<TensorInfo>&) override { return Status::ok(); }
  Status place(const std::shared_ptr<PolicyImage>&) override { return Status::ok(); }
  void commit(const Version&) noexcept override {}
  void rollback(const Version&) noexcept override {}
  bool wants_fixed_addresses() const override { return true; }
};

class ActivationBudget : public test::LocalJob {
 protected:
  std::uint64_t policy_bytes(const ToyPolicy& policy) const {
    std::uint64_t sum = 0;
    for (const auto& tensor : policy.tensors) sum += tensor.bytes->size();
    return sum;
  }

  /// Wants all tensors as they are, but by a layout, so that a view is out of the question.
  SubscriberOptions copying(const std::string& name, const ToyPolicy& policy,
                            std::uint64_t budget) const {
    SubscriberOptions options = subscriber_options(name);
    options.memory_budget = budget;
    for (const auto& tensor : policy.tensors) {
      options.layout.push_back({tensor.info.name, tensor.info.shape, {{tensor.info.name}}});
    }
    return options;
  }

  static void expect_bytes(Subscriber& engine, const ToyPolicy& policy, std::uint64_t step) {
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    for (std::size_t i = 0; i < policy.tensors.size(); ++i) {
      const PlacedTensor* placed = lease->image().find(policy.tensors[i].info.name);
      ASSERT_NE(placed, nullptr) << policy.tensors[i].info.name;
      const auto* data = static_cast<const std::byte*>(placed->data);
      for (std::size_t at = 0; at < placed->info.bytes(); ++at) {
        ASSERT_EQ(data[at], ToyPolicy::expected(i, at, step)) << placed->info.name << " at " << at;
      }
    }
  }
};

TEST_F(ActivationBudget, AutoTakesTheFirstThatFits) {
  ToyPolicy policy(4);
  const std::uint64_t bytes = policy_bytes(policy);
  Publisher publisher = open(policy);
  Subscriber view = follow("view");
  Subscriber flip = follow(copying("flip", policy, 3 * bytes));
  Subscriber staged = follow([&] {
    SubscriberOptions options = subscriber_options("staged");
    options.memory_budget = 3 * bytes;
    return options;
  }(), std::make_shared<FixedApplier>());
  Subscriber serial = follow(copying("serial", policy, bytes + bytes / 2));

  std::uint64_t step = 0;
  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, ++step);
    return verdict && verdict->applied.size() == 4;
  })) << serial.status().last_failure;

  const std::pair<Subscriber*, Activation> expected[] = {{&view, Activation::kView},
                                                         {&flip, Activation::kFlip},
                                                         {&staged, Activation::kStaged},
                                                         {&serial, Activation::kSerial}};
  for (const auto& [engine, activation] : expected) {
    EXPECT_EQ(engine->status().activation, activation) << engine->status().activation_reason;
    EXPECT_TRUE(has(engine->status().activation_reason, "auto: ")) << engine->status().activation_reason;
    expect_bytes(*engine, policy, step);
  }
  EXPECT_TRUE(has(staged.status().activation_reason, "fixed addresses"))
      << staged.status().activation_reason;
  EXPECT_TRUE(has(serial.status().activation_reason, "not flip, which needs"))
      << serial.status().activation_reason;
  EXPECT_GE(serial.status().rejoined, 1u) << "the coordinator was not told";
  EXPECT_EQ(serial.status().failed, 0u) << serial.status().last_failure;
}

TEST_F(ActivationBudget, WhereNotEvenSerialFitsItSaysWhatItTakes) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(copying("poor", policy, policy_bytes(policy) / 2));
  policy.step(1);
  publisher.publish(policy.lister());

  ASSERT_TRUE(eventually([&] { return engine.status().failed > 0; }));
  expect_refusal(engine.acquire(Clock::now()).status(), Code::kDeadline,
                 {"exhausted: activation serial needs", "one image of", "memory_budget allows"});
}

TEST_F(ActivationBudget, AnExplicitChoiceFailsRatherThanFalls) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  for (const Activation activation : {Activation::kFlip, Activation::kStaged}) {
    SubscriberOptions options = copying("poor", policy, policy_bytes(policy) * 3 / 2);
    options.activation = activation;
    Subscriber engine = follow(options);
    EXPECT_TRUE(publisher.fence());
    policy.step(1);
    publisher.publish(policy.lister());
    ASSERT_TRUE(eventually([&] { return engine.status().failed > 0; }));
    EXPECT_TRUE(has(engine.status().last_failure, "two images of")) << engine.status().last_failure;
    EXPECT_EQ(engine.status().activation, activation);
  }
  SubscriberOptions options = copying("viewer", policy, 0);
  options.activation = Activation::kView;
  const auto engine = Subscriber::open(options);
  EXPECT_TRUE(has(engine.status().message(), "option activation = view: expected auto, flip"))
      << engine.status().message();
}

TEST_F(ActivationBudget, AnAllocationThatFailsFallsToTheNextActivation) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own address space passes any limit";
  ToyPolicy policy(2000);
  const std::uint64_t bytes = policy_bytes(policy);
  Publisher publisher = open(policy);
  // Everything twice: an image is larger than the slot, which is mapped after room was made for it.
  SubscriberOptions options = copying("falling", policy, 0);
  for (const auto& tensor : policy.tensors) {
    options.layout.push_back({tensor.info.name + ".copy", tensor.info.shape, {{tensor.info.name}}});
  }
  Subscriber engine = follow(options);
  ASSERT_TRUE(eventually([&] { return engine.status().attached; }));
  rlimit former{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &former), 0);
  test::LogLines lines;
  const std::uint64_t slot = bytes + bytes / 8 + 2 * kMiB;
  rlimit little = former;
  little.rlim_cur = own_memory("VmSize") + slot + 2 * bytes + 80 * kMiB;  // less than 4 * bytes
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &little), 0);

  policy.step(1);
  publisher.publish(policy.lister());
  const bool came = eventually([&] { return engine.acquire(Clock::now()).is_ok(); });
  ::setrlimit(RLIMIT_AS, &former);

  ASSERT_TRUE(came) << engine.status().last_failure;
  expect_bytes(engine, policy, 1);
  EXPECT_EQ(engine.status().activation, Activation::kSerial) << engine.status().activation_reason;
  EXPECT_TRUE(has(engine.status().activation_reason, "failed: exhausted: no memory for a copy"))
      << engine.status().activation_reason;
  EXPECT_TRUE(lines.contain("event=activation_fell from=flip"));
}

// ---- what is taken --------------------------------------------------------------------------

std::atomic<std::uint64_t> most_memory{0};

void measure(const char* name, unsigned long long) {
  if (std::string(name) != "engine.copying") return;
  const std::uint64_t now = own_memory("RssAnon");
  std::uint64_t most = most_memory;
  while (now > most && !most_memory.compare_exchange_weak(most, now)) {
  }
}

class MemoryTaken : public ActivationBudget,
                    public ::testing::WithParamInterface<std::pair<Activation, int>> {
 protected:
  MemoryTaken() {
    most_memory = 0;
    base::failpoint_handler() = measure;
  }
  ~MemoryTaken() override { base::failpoint_handler() = nullptr; }
};

TEST_P(MemoryTaken, IsTheImagesThatItSays) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory hides ours";
  const auto [activation, images] = GetParam();
  ToyPolicy policy(600);
  const std::uint64_t bytes = policy_bytes(policy);
  Publisher publisher = open(policy);
  {
    Subscriber warm = follow("warm");  // threads and buffers of the trainer and the control plane
    ASSERT_TRUE(bring(publisher, policy, 1));
  }
  const std::uint64_t before = own_memory("RssAnon");
  SubscriberOptions options = copying("measured", policy, 0);
  options.activation = activation;
  Subscriber engine = follow(options);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  for (std::uint64_t step = 2; step <= 4; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
  }
  expect_bytes(engine, policy, 4);

  const std::uint64_t taken = std::max(most_memory.load(), own_memory("RssAnon")) - before;
  EXPECT_LE(taken, static_cast<std::uint64_t>(images) * bytes + 8 * kMiB);
  EXPECT_GE(taken, static_cast<std::uint64_t>(images) * bytes - 8 * kMiB) << "is it measured?";
}

INSTANTIATE_TEST_SUITE_P(Activations, MemoryTaken,
                         ::testing::Values(std::pair{Activation::kFlip, 2},
                                           std::pair{Activation::kStaged, 2},
                                           std::pair{Activation::kSerial, 1}),
                         [](const auto& given) {
                           const Activation a = given.param.first;
                           return a == Activation::kFlip     ? "Flip"
                                  : a == Activation::kStaged ? "Staged"
                                                             : "Serial";
                         });

}  // namespace
}  // namespace weightcast
