// A job within one process: publishers and subscribers over real sockets and real shared memory.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <weightcast/log.hpp>
#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

#include "support/private_place.hpp"
#include "support/shm_fixture.hpp"
#include "support/toy_policy.hpp"

namespace weightcast::test {

using namespace std::chrono_literals;

/// Far beyond what any of it takes; only a failure waits so long.
inline constexpr std::chrono::seconds kPatience{30};

inline Deadline soon() { return Clock::now() + kPatience; }

/// Asks again and again. @return false after kPatience
inline bool eventually(const std::function<bool()>& done) {
  const auto deadline = soon();
  while (!done()) {
    if (Clock::now() >= deadline) return false;
    ::poll(nullptr, 0, 2);  // lets the other threads have the processor
  }
  return true;
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// This process's log lines while it lives.
class LogLines {
 public:
  LogLines() {
    set_log_sink([this](LogLevel, std::string_view line) {
      const std::lock_guard lock(mutex_);
      lines_.emplace_back(line);
    });
  }
  ~LogLines() { set_log_sink({}); }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  bool contain(const std::string& part) const {
    const std::lock_guard lock(mutex_);
    for (const std::string& line : lines_) {
      if (has(line, part)) return true;
    }
    return false;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

class LocalJob : public ::testing::Test {
 protected:
  PublisherOptions publisher_options() const {
    PublisherOptions options;
    options.job = job;
    options.directory = place.path();
    options.stall = 10s;
    options.heartbeat = 20ms;
    options.member_timeout = 5s;
    options.min_receivers = 1;
    return options;
  }

  SubscriberOptions subscriber_options(const std::string& name) const {
    SubscriberOptions options;
    options.job = job;
    options.directory = place.path();
    options.name = name;
    options.heartbeat = 20ms;
    options.member_timeout = 5s;
    return options;
  }

  static Publisher open(const PublisherOptions& options, ToyPolicy& policy) {
    auto opened = Publisher::open(options, policy.lister());
    if (!opened) throw Error(opened.status());
    return std::move(*opened);
  }
  Publisher open(ToyPolicy& policy) const { return open(publisher_options(), policy); }

  static Subscriber follow(const SubscriberOptions& options, std::shared_ptr<Applier> applier = {}) {
    auto opened = Subscriber::open(options, std::move(applier));
    if (!opened) throw Error(opened.status());
    return std::move(*opened);
  }
  Subscriber follow(const std::string& name, std::shared_ptr<Applier> applier = {}) const {
    return follow(subscriber_options(name), std::move(applier));
  }

  /// One training step, published and flushed. Its version's number is the point's, which is not
  /// `step` where points were coalesced.
  static Result<Verdict> bring(Publisher& publisher, ToyPolicy& policy, std::uint64_t step,
                               Deadline deadline = soon()) {
    EXPECT_TRUE(publisher.fence());
    policy.step(step);
    publisher.publish(policy.lister());
    return publisher.flush(deadline, policy.lister());
  }

  static void expect_refusal(const Status& status, Code code,
                             const std::vector<std::string>& words) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    for (const std::string& word : words) {
      EXPECT_TRUE(has(status.message(), word)) << "no \"" << word << "\" in: " << status.message();
    }
  }

  void TearDown() override {
    EXPECT_EQ(shm_objects("." + job + "."), std::vector<std::string>{}) << "left behind";
  }

  const std::string job = unique_job();
  PrivatePlace place;
};

}  // namespace weightcast::test
