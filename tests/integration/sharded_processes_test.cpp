// Two trainer processes that hold a policy by boxes, and engine processes that want it whole, by
// halves across those boxes, and with three tensors fused: bit for bit, and nobody holds more than
// its part.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "integration/sharded_policy.hpp"
#include "support/child_process.hpp"
#include "support/own_memory.hpp"
#include "support/private_place.hpp"
#include "support/sanitized.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using test::ShardedPolicy;
using test::Talk;

constexpr std::uint32_t kRanks = 2;
constexpr std::uint32_t kSlots = 3;
constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kBucketBytes = 128 * 1024;
constexpr std::uint64_t kUnderWay = 8 * kBucketBytes;  // an engine's buckets from a rank at once
constexpr std::uint64_t kVersions = test::kSanitized ? 2 : 4;  // that each engine looks at, at least

struct Way {
  TransportChoice transport;
  Activation activation;
  const char* name;
};

void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

std::string name_of(const testing::TestParamInfo<Way>& info) { return info.param.name; }

/// Whatever happens, a child answers or ends: its parent waits for either.
template <class Body>
int answering(const Talk& talk, const Body& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    talk.say(std::string("failed ") + error.what());
    return 1;
  }
}

// ---- a trainer rank -------------------------------------------------------------------------
// Told "step N" trains up to publish point N and answers "at PUBLISHED GROWN SLOT_BYTES".

int train(const Talk& talk, PublisherOptions options) {
  test::OwnMemory memory;
  ShardedPolicy policy(options.rank);
  auto publisher = Publisher::open(std::move(options), policy.lister());
  if (!publisher) throw Error(publisher.status());
  for (std::string line = talk.hear(); line != "end"; line = talk.hear()) {
    if (line.empty()) return 2;
    const std::uint64_t until = std::stoull(line.substr(line.find(' ')));
    for (auto status = publisher->status(); status.next_point <= until;
         status = publisher->status()) {
      if (Status fenced = publisher->fence(); !fenced) throw Error(fenced);
      policy.step(status.next_point);
      publisher->publish(policy.lister());
    }
    const PublisherStatus status = publisher->status();
    talk.say("at " + std::to_string(status.published.number) + " " +
             std::to_string(memory.grown()) + " " +
             std::to_string(publisher->options().slot_bytes));
  }
  return 0;
}

// ---- an engine ------------------------------------------------------------------------------
// Looks at every version that it gets a lease on, at both ends of the lease. Asked "count" it
// answers "seen VERSIONS GROWN" or "bad WHAT".

int follow(const Talk& talk, SubscriberOptions options, const std::string& kind) {
  test::OwnMemory memory;
  const auto wanted = test::wanted_by(kind);
  const Activation activation = options.activation;
  const std::string transport = options.transport == TransportChoice::kTcp ? "tcp" : "shm";
  auto subscriber = Subscriber::open(std::move(options));
  if (!subscriber) throw Error(subscriber.status());
  std::uint64_t seen = 0;
  Version newest;
  std::string bad;
  const auto asked = [&](int milliseconds) {
    pollfd in{talk.in(), POLLIN, 0};
    return ::poll(&in, 1, milliseconds) > 0;
  };
  while (true) {
    auto lease = subscriber->acquire(Clock::now() + 20ms);
    const bool is_new = lease && lease->version() != newest;
    if (lease && lease->version() < newest) bad = "a version that is older than the one before";
    if (is_new) {
      newest = lease->version();
      if (bad.empty()) bad = test::difference(lease->image(), wanted, newest.number);
      const SubscriberStatus status = subscriber->status();
      if (status.activation != activation || status.transport != transport) {
        bad = "it came over " + status.transport + ": " + status.activation_reason;
      }
      ++seen;
    }
    const bool is_asked = asked(is_new ? 10 : 1);  // meanwhile the next version is on its way
    if (is_new && bad.empty()) bad = test::difference(lease->image(), wanted, newest.number);
    if (lease) lease->release();
    if (!is_asked) continue;
    const std::string line = talk.hear();
    if (line.empty()) return 2;
    if (line == "end") return bad.empty() ? 0 : 3;
    if (!bad.empty()) {
      talk.say("bad version " + std::to_string(newest.number) + ": " + bad);
    } else {
      talk.say("seen " + std::to_string(seen) + " " + std::to_string(memory.grown()) + " " +
               subscriber->status().last_failure);
    }
  }
}

// ---- the job --------------------------------------------------------------------------------

class ShardedProcesses : public testing::TestWithParam<Way> {
 protected:
  struct Engine {
    std::string kind;
    std::unique_ptr<ChildProcess> process;
    std::uint64_t seen = 0;
    std::uint64_t grown = 0;
  };
  struct Rank {
    std::unique_ptr<ChildProcess> process;
    std::uint64_t grown = 0;
    std::uint64_t slot_bytes = 0;
  };

  void start() {
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      PublisherOptions options;
      options.job = job;
      options.directory = place.path();
      options.rank = rank;
      options.world_size = kRanks;
      options.launch = "1";
      options.transport = GetParam().transport;
      options.slots = kSlots;
      options.stall = 20s;
      options.member_timeout = 20s;
      options.attempt_timeout = 60s;
      ranks.push_back({std::make_unique<ChildProcess>([options](const Talk& talk) {
        return answering(talk, [&] { return train(talk, options); });
      })});
    }
    for (const char* kind : {"whole", "left", "right", "fused"}) {
      SubscriberOptions options;
      options.job = job;
      options.directory = place.path();
      options.name = kind;
      options.transport = GetParam().transport;
      options.activation = GetParam().activation;
      options.layout = test::layout_of(kind);
      options.bucket_bytes = kBucketBytes;
      options.member_timeout = 20s;
      engines.push_back({kind, std::make_unique<ChildProcess>([options, kind](const Talk& talk) {
                           return answering(talk, [&] { return follow(talk, options, kind); });
                         })});
    }
  }

  /// One more step of both ranks. Fails the test where one of them does not answer.
  void step(std::uint64_t point) {
    for (Rank& rank : ranks) rank.process->say("step " + std::to_string(point));
    for (Rank& rank : ranks) {
      const std::string answer = rank.process->hear();
      std::istringstream words(answer);
      std::string kind;
      std::uint64_t published = 0;
      words >> kind >> published >> rank.grown >> rank.slot_bytes;
      ASSERT_EQ(kind, "at") << answer;
    }
    shared = std::max(shared, shared_memory());
  }

  /// Bytes that this job's objects take, whoever has mapped them.
  std::uint64_t shared_memory() const {
    std::uint64_t sum = 0;
    for (const std::string& object : test::shm_objects("." + job + ".")) {
      struct stat info{};
      if (::stat(("/dev/shm/" + object).c_str(), &info) == 0) {
        sum += 512 * static_cast<std::uint64_t>(info.st_blocks);
      }
    }
    return sum;
  }

  void count() {
    for (Engine& engine : engines) {
      engine.process->say("count");
      const std::string answer = engine.process->hear();
      std::istringstream words(answer);
      std::string kind;
      words >> kind >> engine.seen >> engine.grown;
      ASSERT_EQ(kind, "seen") << engine.kind << ": " << answer;
      last_answers += engine.kind + ": " + answer + "\n";
    }
  }

  void finish() {
    for (Rank& rank : ranks) {
      rank.process->say("end");
      EXPECT_EQ(rank.process->wait(), 0);
    }
    for (Engine& engine : engines) {
      engine.process->say("end");
      EXPECT_EQ(engine.process->wait(), 0) << engine.kind;
    }
  }

  void TearDown() override {
    ranks.clear();
    engines.clear();
    if (HasFailure()) staging::sweep(job);
    EXPECT_EQ(test::shm_objects("." + job + "."), std::vector<std::string>{}) << "left behind";
  }

  const std::string job = test::unique_job();
  test::PrivatePlace place;
  std::vector<Rank> ranks;
  std::vector<Engine> engines;
  std::uint64_t shared = 0;  ///< greatest seen
  std::string last_answers;
};

TEST_P(ShardedProcesses, EveryLeaseIsBitExactAndNobodyHoldsMoreThanItsPart) {
  start();
  const auto deadline = Clock::now() + 100s;
  std::uint64_t point = 0;
  do {
    ASSERT_LT(Clock::now(), deadline) << "the engines said at the last:\n" << last_answers;
    last_answers.clear();
    ASSERT_NO_FATAL_FAILURE(step(++point));
    ASSERT_NO_FATAL_FAILURE(count());
  } while (!std::all_of(engines.begin(), engines.end(),
                        [](const Engine& engine) { return engine.seen >= kVersions; }));

  const std::uint64_t whole = test::whole_policy_bytes();
  ASSERT_GT(whole, 60 * kMiB);
  const bool is_flip = GetParam().activation == Activation::kFlip;
  const bool is_tcp = GetParam().transport == TransportChoice::kTcp;
  for (const Engine& engine : engines) {
    // Over tcp a bucket is there twice, as it came and deciphered. Threads, sockets and the heap
    // take a few MiB more.
    const std::uint64_t buckets = is_tcp ? 2 * kRanks * kUnderWay : 0;
    const std::uint64_t part = test::wanted_bytes(engine.kind);
    const std::uint64_t images = is_flip ? 2 : 1;
    const std::uint64_t most = images * part + buckets + 6 * kMiB;
    if (engine.kind == "left" || engine.kind == "right") {
      ASSERT_LT(most, images * whole * 4 / 5) << "the limit says nothing";
    }
    RecordProperty(engine.kind + "_grown_kib", std::to_string(engine.grown / 1024));
    if (test::kMemoryIsOwn) {
      EXPECT_LE(engine.grown, most) << engine.kind << " wants " << part << " bytes";
    }
  }
  std::uint64_t slots = 0;
  for (std::uint32_t i = 0; i < kRanks; ++i) {
    const Rank& rank = ranks[i];
    const std::uint64_t weights = ShardedPolicy(i).bytes();
    // What is sent lies twice in the queues of each engine, as it is and enciphered.
    const std::uint64_t queued = is_tcp ? 2 * engines.size() * kUnderWay : 0;
    const std::uint64_t most = weights + queued + 8 * kMiB;
    ASSERT_LT(most, whole * 9 / 10) << "the limit says nothing";
    RecordProperty("rank_" + std::to_string(i) + "_grown_kib", std::to_string(rank.grown / 1024));
    if (test::kMemoryIsOwn) {
      EXPECT_LE(rank.grown, most) << "rank " << i << " holds " << weights << " bytes";
    }
    // Its boxes, some of what is replicated, and the eighth and the MiB that slots have to spare.
    EXPECT_LE(rank.slot_bytes, weights + weights / 8 + kMiB);
    slots += kSlots * rank.slot_bytes;
  }
  // Each byte of the policy has one rank's slots that it lies in.
  EXPECT_LE(slots, kSlots * (whole + whole / 8 + kRanks * kMiB));
  RecordProperty("shared_kib", std::to_string(shared / 1024));
  EXPECT_GE(shared, slots);
  EXPECT_LE(shared, slots + kMiB);
  finish();
}

INSTANTIATE_TEST_SUITE_P(
    Ways, ShardedProcesses,
    testing::Values(Way{TransportChoice::kShm, Activation::kFlip, "ShmFlip"},
                    Way{TransportChoice::kShm, Activation::kSerial, "ShmSerial"},
                    Way{TransportChoice::kTcp, Activation::kFlip, "TcpFlip"},
                    Way{TransportChoice::kTcp, Activation::kSerial, "TcpSerial"}),
    name_of);

}  // namespace
}  // namespace weightcast
