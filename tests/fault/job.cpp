#include "fault/job.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <sstream>

#include "staging/sweep.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast::test {
namespace {

/// No step follows another sooner: leaves the processors to the engines.
constexpr std::chrono::milliseconds kStepPeriod{3};
constexpr std::chrono::milliseconds kCountPeriod{25};
constexpr std::chrono::milliseconds kPoll{3};

std::string helper_path() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "fault_process").string();
}

}  // namespace

// ---- one process ----------------------------------------------------------------------------

FaultProcess::FaultProcess(std::string name, std::vector<std::string> arguments)
    : name_(std::move(name)) {
  const std::string path = helper_path();
  std::vector<char*> argv{const_cast<char*>(path.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  int down[2];
  int up[2];
  if (::pipe2(down, O_CLOEXEC) != 0 || ::pipe2(up, O_CLOEXEC | O_NONBLOCK) != 0) {
    ADD_FAILURE() << "no pipes: errno " << errno;
    state_ = State::kDead;
    return;
  }
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(down[0], STDIN_FILENO);
    ::dup2(up[1], STDOUT_FILENO);
    ::fcntl(STDOUT_FILENO, F_SETFL, 0);  // the child's end may block
    ::execv(path.c_str(), argv.data());
    ::_exit(127);
  }
  if (pid_ < 0) {
    ADD_FAILURE() << "no fork: errno " << errno;
    state_ = State::kDead;
  }
  ::close(down[0]);
  ::close(up[1]);
  input_ = down[1];
  output_ = up[0];
}

FaultProcess::~FaultProcess() {
  kill();
  if (input_ >= 0) ::close(input_);
  if (output_ >= 0) ::close(output_);
}

void FaultProcess::kill() {
  if (pid_ <= 0 || state_ == State::kDead) return;
  may_die = true;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &exit_status_, 0);
  state_ = State::kDead;
}

void FaultProcess::say(const std::string& line) {
  const std::string text = line + "\n";
  [[maybe_unused]] const auto written = ::write(input_, text.data(), text.size());
}

void FaultProcess::signal(int number) {
  if (pid_ > 0 && state_ != State::kDead) ::kill(pid_, number);
}

void FaultProcess::look() {
  char bytes[4096];
  while (output_ >= 0) {
    const auto got = ::read(output_, bytes, sizeof bytes);
    if (got == 0) {
      ::close(output_);
      output_ = -1;
    }
    if (got <= 0) break;
    buffer_.append(bytes, static_cast<std::size_t>(got));
  }
  for (auto end = buffer_.find('\n'); end != std::string::npos; end = buffer_.find('\n')) {
    take(buffer_.substr(0, end));
    buffer_.erase(0, end + 1);
  }
  int status = 0;
  while (state_ != State::kDead &&
         ::waitpid(pid_, &status, WNOHANG | WUNTRACED | WCONTINUED) == pid_) {
    if (WIFSTOPPED(status)) {
      state_ = State::kStopped;
    } else if (WIFCONTINUED(status)) {
      state_ = State::kRunning;
    } else {
      state_ = State::kDead;
      exit_status_ = status;
    }
  }
}

void FaultProcess::take(const std::string& line) {
  std::istringstream words(line);
  std::string kind;
  words >> kind;
  if (kind == "ready") {
    ready = true;
  } else if (kind == "at") {
    words >> point >> run >> published;
    std::getline(words, blocked);
  } else if (kind == "version") {
    Seen seen;
    words >> seen.run >> seen.number;
    versions.push_back(seen);
  } else if (kind == "leases") {
    words >> leases >> attached >> rejoined;
    ++answers;
  } else if (kind == "bad") {
    bad.push_back(line);
  } else {
    log.push_back(line);
  }
}

bool FaultProcess::logged(const std::string& part, std::size_t from) const {
  for (std::size_t i = from; i < log.size(); ++i) {
    if (log[i].find(part) != std::string::npos) return true;
  }
  return false;
}

std::uint64_t FaultProcess::serving(const std::string& of_run) const {
  return versions.empty() || versions.back().run != of_run ? 0 : versions.back().number;
}

// ---- the job --------------------------------------------------------------------------------

FaultJob::FaultJob(JobOptions options) : options_(std::move(options)), job_(unique_job()) {
  ::signal(SIGPIPE, SIG_IGN);
}

FaultJob::~FaultJob() {
  ranks_.clear();
  engines_.clear();
  staging::sweep(job_);
}

std::unique_ptr<FaultProcess> FaultJob::make_rank(std::uint32_t number, bool takeover) const {
  std::vector<std::string> arguments{
      "trainer",
      "job=" + job_,
      "dir=" + place_.path(),
      "rank=" + std::to_string(number),
      "world=" + std::to_string(kRanks),
      "launch=start-" + std::to_string(launch_),
      "mode=" + options_.mode,
      "transport=" + options_.transport,
      "heartbeat_ms=" + std::to_string(options_.heartbeat.count()),
      "member_timeout_ms=" + std::to_string(options_.member_timeout.count()),
      "attempt_timeout_ms=" + std::to_string(options_.attempt_timeout.count()),
      "scale=" + std::to_string(options_.scale)};
  if (takeover) arguments.emplace_back("takeover");
  return std::make_unique<FaultProcess>("rank-" + std::to_string(number), std::move(arguments));
}

FaultProcess& FaultJob::start_rank(std::uint32_t number, bool takeover) {
  ranks_[number] = make_rank(number, takeover);
  return *ranks_[number];
}

FaultProcess& FaultJob::start_engine(const std::string& name) {
  std::erase_if(engines_, [&](const auto& engine) { return engine->name() == name; });
  engines_.push_back(std::make_unique<FaultProcess>(
      name, std::vector<std::string>{
                "engine", "job=" + job_, "dir=" + place_.path(), "name=" + name,
                "transport=" + options_.transport, "activation=" + options_.activation,
                "heartbeat_ms=" + std::to_string(options_.heartbeat.count()),
                "member_timeout_ms=" + std::to_string(options_.member_timeout.count()),
                "scale=" + std::to_string(options_.scale)}));
  return *engines_.back();
}

void FaultJob::next_launch() {
  ++launch_;
  point_ = 0;
}

std::unique_ptr<FaultProcess> FaultJob::release_rank(std::uint32_t number) {
  return std::move(ranks_.at(number));
}

FaultProcess& FaultJob::engine(const std::string& name) {
  return **std::find_if(engines_.begin(), engines_.end(),
                        [&](const auto& engine) { return engine->name() == name; });
}

std::vector<FaultProcess*> FaultJob::everybody() const {
  std::vector<FaultProcess*> all;
  for (const auto& rank : ranks_) {
    if (rank) all.push_back(rank.get());
  }
  for (const auto& engine : engines_) all.push_back(engine.get());
  return all;
}

std::string FaultJob::whats_wrong() const {
  for (const FaultProcess* process : everybody()) {
    if (!process->bad.empty()) return process->name() + ": " + process->bad.front();
    if (process->state() == FaultProcess::State::kDead && !process->may_die) {
      return process->name() + " ended, wait status " + std::to_string(process->exit_status()) +
             (process->log.empty() ? "" : "; its last line: " + process->log.back());
    }
  }
  return {};
}

void FaultJob::turn() {
  std::vector<pollfd> outputs;
  for (const FaultProcess* process : everybody()) {
    if (process->output() >= 0) outputs.push_back({process->output(), POLLIN, 0});
  }
  ::poll(outputs.data(), outputs.size(), static_cast<int>(kPoll.count()));
  for (FaultProcess* process : everybody()) process->look();

  const auto now = Clock::now();
  bool all_there = true;
  for (const auto& rank : ranks_) {
    if (rank && rank->running()) all_there = all_there && rank->ready && rank->point >= point_;
  }
  if (all_there && now >= next_step_) {
    ++point_;
    next_step_ = now + kStepPeriod;
  }
  for (const auto& rank : ranks_) {
    if (!rank || !rank->running() || !rank->ready || rank->told >= point_) continue;
    rank->told = point_;
    rank->say("step " + std::to_string(point_));
  }
  if (now < next_count_) return;
  next_count_ = now + kCountPeriod;
  for (const auto& engine : engines_) {
    if (!engine->running() || engine->asked != engine->answers) continue;
    ++engine->asked;
    engine->say("count");
  }
}

bool FaultJob::train_until(const std::function<bool()>& done) {
  const auto deadline = Clock::now() + kPatience;
  do {
    turn();
    why_ = whats_wrong();
    if (!why_.empty()) return false;
    if (done()) return true;
  } while (Clock::now() < deadline);
  std::ostringstream text;
  text << "the deadline passed at point " << point_;
  for (const FaultProcess* process : everybody()) {
    text << "\n  " << process->name()
         << (process->running() ? " runs" : " is stopped or dead");
    if (process->name().starts_with("rank-")) {
      text << ", point " << process->point << ", published " << process->published << ","
           << process->blocked;
      const std::size_t from = process->log.size() - std::min<std::size_t>(process->log.size(), 8);
      for (std::size_t i = from; i < process->log.size(); ++i) text << "\n    " << process->log[i];
    } else {
      text << ", leases " << process->leases << ", rejoined " << process->rejoined << ", attached "
           << process->attached;
      if (!process->versions.empty()) {
        text << ", serves " << process->versions.back().run << ":"
             << process->versions.back().number;
      }
    }
  }
  why_ = text.str();
  return false;
}

bool FaultJob::all_engines(const std::function<bool(const FaultProcess&)>& is) const {
  return std::all_of(engines_.begin(), engines_.end(), [&](const auto& engine) {
    return !engine->running() || is(*engine);
  });
}

bool FaultJob::leases_go_on(std::uint64_t more) {
  // An answer that was asked for before the call may be older than it: the second one is not.
  std::vector<std::pair<FaultProcess*, std::uint64_t>> since;
  for (const auto& engine : engines_) since.emplace_back(engine.get(), engine->answers + 2);
  if (!train_until([&] {
        return std::all_of(since.begin(), since.end(), [](const auto& entry) {
          return !entry.first->running() || entry.first->answers >= entry.second;
        });
      })) {
    return false;
  }
  for (auto& [engine, leases] : since) leases = engine->leases + more;
  const auto goes_on = [](const auto& entry) {
    return entry.first->running() && entry.first->leases >= entry.second;
  };
  const auto may_be_silent = [&](const auto& entry) {
    return !entry.first->running() || goes_on(entry);
  };
  return train_until([&] {
    return options_.activation == "serial"
               ? std::any_of(since.begin(), since.end(), goes_on)
               : std::all_of(since.begin(), since.end(), may_be_silent);
  });
}

std::uint64_t FaultJob::newest() const {
  std::uint64_t number = 0;
  for (const auto& engine : engines_) {
    number = std::max(number, engine->serving(ranks_[0]->run));
  }
  return number;
}

std::uint64_t FaultJob::oldest(const FaultProcess* but) const {
  std::uint64_t number = std::numeric_limits<std::uint64_t>::max();
  for (const auto& engine : engines_) {
    if (engine->running() && engine.get() != but) {
      number = std::min(number, engine->serving(ranks_[0]->run));
    }
  }
  return number;
}

bool FaultJob::versions_flow(std::uint64_t more, const FaultProcess* but) {
  for (; more > 0; --more) {
    std::uint64_t newest_now = newest();
    if (!train_until([&] { return oldest(but) > newest_now; })) return false;
  }
  return true;
}

std::vector<std::string> FaultJob::shared_memory() const { return shm_objects("." + job_ + "."); }

std::string FaultJob::finish() {
  // The trainer first: then the engines are left with what it published.
  for (const bool trainer : {true, false}) {
    std::vector<FaultProcess*> leaving;
    for (FaultProcess* process : everybody()) {
      if (process->name().starts_with("rank-") != trainer || !process->running()) continue;
      process->may_die = true;
      process->say("end");
      leaving.push_back(process);
    }
    const auto deadline = Clock::now() + kPatience;
    for (FaultProcess* process : leaving) {
      while (process->state() != FaultProcess::State::kDead) {
        if (Clock::now() > deadline) return process->name() + " does not end";
        pollfd output{process->output(), POLLIN, 0};
        ::poll(&output, 1, static_cast<int>(kPoll.count()));
        process->look();
      }
      if (!WIFEXITED(process->exit_status()) || WEXITSTATUS(process->exit_status()) != 0) {
        return process->name() + " ended with wait status " + std::to_string(process->exit_status());
      }
      if (!process->bad.empty()) return process->name() + ": " + process->bad.front();
    }
  }
  std::string left;
  for (const std::string& object : shared_memory()) left += " /dev/shm/" + object;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(place_.path())) {
    const std::string file = entry.path().filename().string();
    if (entry.is_directory() || file == "coordinator.lock") continue;
    if (entry.path().parent_path().filename() == ".keys") continue;  // for the job's next start
    left += " " + entry.path().string();
  }
  return left.empty() ? "" : "left behind:" + left;
}

}  // namespace weightcast::test
