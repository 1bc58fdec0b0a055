// One process of a job under test: a trainer rank or an engine, told what to do line by line on
// standard input, reporting line by line on standard output.
//
//   fault_process trainer KEY=VALUE...      fault_process engine KEY=VALUE...
//
// All:      arm FAILPOINT SIGNAL   raise the signal on itself when it next passes the failpoint
//           end                    leave the job and exit
// Trainer:  step N                 one training step and publish point after the other, up to N
//   reports ready | at POINT RUN.TIE PUBLISHED BLOCKED... | log LINE | refused WHY
// Engine:   count                  asks for a report of the leases given so far
//   reports version RUN.TIE NUMBER | leases COUNT ATTACHED REJOINED RUN.TIE NUMBER | bad WHAT
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>

#include <weightcast/log.hpp>
#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

#include "base/failpoint.hpp"
#include "support/toy_policy.hpp"

namespace weightcast::test {
namespace {

using namespace std::chrono_literals;
using Options = std::map<std::string, std::string>;

std::mutex output_mutex;

void report(const std::string& line) {
  const std::string text = line + "\n";
  const std::lock_guard lock(output_mutex);
  [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, text.data(), text.size());
}

// ---- the fault ------------------------------------------------------------------------------

std::atomic<int> armed_signal{0};
std::string armed_failpoint;  // written before armed_signal

void at_failpoint(const char* name, unsigned long long) {
  int signal = armed_signal.load();
  if (signal == 0 || armed_failpoint != name) return;
  if (!armed_signal.compare_exchange_strong(signal, 0)) return;
  ::raise(signal);  // on this very thread: nothing of it runs before the signal has taken effect
}

// ---- commands -------------------------------------------------------------------------------

class Commands {
 public:
  /// The next line, waiting for at most `patience`. Ends the process' work where the parent is gone.
  std::optional<std::string> next(std::chrono::milliseconds patience) {
    for (;;) {
      if (const auto end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      pollfd in{STDIN_FILENO, POLLIN, 0};
      if (::poll(&in, 1, static_cast<int>(patience.count())) <= 0) return std::nullopt;
      char bytes[256];
      const auto got = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (got <= 0) return "end";
      buffer_.append(bytes, static_cast<std::size_t>(got));
    }
  }

 private:
  std::string buffer_;
};

/// @return whether it was a command that both kinds of process know
bool common_command(std::istringstream& words, const std::string& command) {
  if (command != "arm") return false;
  int signal = 0;
  std::string failpoint;
  words >> failpoint >> signal;
  armed_failpoint = failpoint;
  armed_signal = signal;
  return true;
}

// ---- what a version's bytes are -------------------------------------------------------------

/// Two runs give the same point other bytes, so that a mix of them would show.
std::uint64_t step_of(const Run& run, std::uint64_t point) {
  return (run.started_us * 1000003 + run.tie) * 8191 + point;
}

std::string words_of(const Version& version) {
  return to_string(version.run) + " " + std::to_string(version.number);
}

// ---- the two kinds --------------------------------------------------------------------------

int run_trainer(const Options& given) {
  PublisherOptions options;
  options.job = given.at("job");
  options.directory = given.at("dir");
  options.rank = static_cast<std::uint32_t>(std::stoul(given.at("rank")));
  options.world_size = static_cast<std::uint32_t>(std::stoul(given.at("world")));
  options.launch = given.at("launch");
  options.takeover = given.contains("takeover");
  options.inline_bytes = 0;  // all copies are made by the workers
  options.stall = 2s;
  options.heartbeat = std::chrono::milliseconds(std::stoul(given.at("heartbeat_ms")));
  options.member_timeout = std::chrono::milliseconds(std::stoul(given.at("member_timeout_ms")));
  options.attempt_timeout = std::chrono::milliseconds(std::stoul(given.at("attempt_timeout_ms")));
  set_log_sink([](LogLevel, std::string_view line) { report("log " + std::string(line)); });

  ToyPolicy policy(std::stol(given.at("scale")));
  auto publisher = Publisher::open(options, policy.lister());
  if (!publisher) {
    report("refused " + publisher.status().to_string());
    return 3;
  }
  Commands commands;
  bool ready = false;
  while (true) {
    const PublisherStatus status = publisher->status();
    if (!ready && status.connected) {
      ready = true;
      report("ready");
    }
    const auto line = commands.next(ready ? 1000ms : 5ms);
    if (!line) continue;
    std::istringstream words(*line);
    std::string command;
    words >> command;
    if (command == "end") return 0;
    if (common_command(words, command)) continue;
    std::uint64_t until = 0;
    words >> until;
    PublisherStatus now = publisher->status();
    while (now.next_point <= until) {
      [[maybe_unused]] const Status fenced = publisher->fence();
      policy.step(step_of(now.run, now.next_point));
      publisher->publish(policy.lister());
      now = publisher->status();
    }
    report("at " + std::to_string(now.next_point - 1) + " " +
           words_of(now.published) + " " + now.blocked);
  }
}

int run_engine(const Options& given) {
  SubscriberOptions options;
  options.job = given.at("job");
  options.directory = given.at("dir");
  options.name = given.at("name");
  static const std::map<std::string, Activation> kActivations{{"view", Activation::kView},
                                                              {"flip", Activation::kFlip},
                                                              {"staged", Activation::kStaged},
                                                              {"serial", Activation::kSerial}};
  options.activation = kActivations.at(given.at("activation"));
  options.heartbeat = std::chrono::milliseconds(std::stoul(given.at("heartbeat_ms")));
  options.member_timeout = std::chrono::milliseconds(std::stoul(given.at("member_timeout_ms")));

  const ToyPolicy policy(std::stol(given.at("scale")));
  auto subscriber = Subscriber::open(options);
  if (!subscriber) {
    report("refused " + subscriber.status().to_string());
    return 3;
  }
  Commands commands;
  Version served;
  std::uint64_t leases = 0;
  while (true) {
    // A rollout's rhythm: some milliseconds with a lease, then the next.
    const auto lease = subscriber->acquire(Clock::now());
    std::string wrong;
    if (lease) {
      const Version& version = lease->version();
      wrong = policy.difference(lease->image(), step_of(version.run, version.number));
      if (version < served) wrong = "came after version " + to_string(served);
      if (served != version) report("version " + words_of(version));
      served = version;
      ++leases;
    }
    const auto line = commands.next(3ms);
    if (lease && wrong.empty()) {
      wrong = policy.difference(lease->image(), step_of(served.run, served.number));
    }
    if (!wrong.empty()) report("bad version " + to_string(served) + ": " + wrong);
    if (!line) continue;
    std::istringstream words(*line);
    std::string command;
    words >> command;
    if (command == "end") return 0;
    if (common_command(words, command)) continue;
    const SubscriberStatus status = subscriber->status();
    report("leases " + std::to_string(leases) + " " + (status.attached ? "1 " : "0 ") +
           std::to_string(status.rejoined) + " " + words_of(served));
  }
}

}  // namespace
}  // namespace weightcast::test

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::signal(SIGPIPE, SIG_IGN);
  ::alarm(300);
  weightcast::test::Options options;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    const auto equals = word.find('=');
    options[word.substr(0, equals)] = equals == std::string::npos ? "" : word.substr(equals + 1);
  }
  weightcast::base::failpoint_handler() = weightcast::test::at_failpoint;
  return argc > 1 && std::string(argv[1]) == "trainer" ? weightcast::test::run_trainer(options)
                                                       : weightcast::test::run_engine(options);
}
