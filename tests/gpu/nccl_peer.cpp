// A rank of nccl_test, as a process of its own: all of them share one GPU, so each says that it is on
// another host. Hears commands and says answers, a line each, on its standard streams.
//
//   nccl_peer NAME source|receiver BYTES BUCKET_BYTES
//
//   id                            -> id HEX
//   join GENERATION RANK SIZE HEX -> joined | failed WHY
//   write SEED                    -> written              (a source's slot)
//   move broadcast|p2p FIRST [AT] -> done | failed BUCKETS WHY    of buckets FIRST..; a receiver that
//                                    has AT buckets says "at AT" and stands still for good
//   rest                          -> rested | lost WHY    the quarantine is over
//   check SEED                    -> right | wrong BYTES  (a receiver's image)
//   memory                        -> memory FREE_BYTES
//   leave                         -> left | aborted
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>

#include "transport/nccl/receiver.hpp"
#include "transport/nccl/sender.hpp"

namespace {

using namespace weightcast;
using namespace weightcast::transport;

constexpr int kDevice = 0;
constexpr auto kPatience = std::chrono::seconds(50);  // below a minute, which the test waits

void say(const std::string& line) { std::cout << line << std::endl; }

std::byte pattern(std::uint64_t at, std::uint64_t seed) {
  return static_cast<std::byte>((at * 31 + (at >> 8) * 7 + seed * 131) & 0xff);
}

class Peer {
 public:
  Peer(bool is_source, std::uint64_t bytes, std::uint64_t bucket_bytes)
      : is_source_(is_source), bytes_(bytes) {
    cuda_ = driver::load_cuda().value_or_throw();
    nccl_ = driver::load_nccl().value_or_throw();
    NcclOptions options;
    options.bucket_bytes = bucket_bytes;
    // Several ranks share the GPU's multiprocessors, and all must fit on it at once.
    options.communicator.min_ctas = 1;
    options.communicator.max_ctas = 2;
    options.join = std::chrono::seconds(30);
    gpu_ = NcclGpu::open(nccl_, cuda_, kDevice, options).value_or_throw();
    memory_ = is_source_ ? cuda_->allocate_host(bytes).value_or_throw()
                         : cuda_->allocate(kDevice, bytes).value_or_throw();
    check_ = cuda_->allocate_host(bytes).value_or_throw();
  }
  ~Peer() {
    gpu_.reset();
    if (is_source_) {
      cuda_->free_host(memory_);
    } else {
      cuda_->free(kDevice, memory_);
    }
    cuda_->free_host(check_);
  }

  std::string obey(std::istringstream& line) {
    std::string what;
    line >> what;
    if (what == "id") return id();
    if (what == "join") return join(line);
    if (what == "write") return write(line);
    if (what == "move") return move(line);
    if (what == "rest") return rest();
    if (what == "check") return check(line);
    if (what == "memory") return "memory " + std::to_string(cuda_->memory(kDevice).value_or_throw().free);
    if (what == "leave") {
      return gpu_->close(Clock::now() + kPatience) ? "left" : "aborted";
    }
    return "expected a command, got '" + what + "'";
  }

 private:
  std::string id() {
    const auto made = nccl_->unique_id();
    if (!made) return "failed " + made.status().to_string();
    std::string text = "id ";
    for (const std::byte b : made->bytes) {
      text += "0123456789abcdef"[std::to_integer<unsigned>(b) / 16];
      text += "0123456789abcdef"[std::to_integer<unsigned>(b) % 16];
    }
    return text;
  }

  std::string join(std::istringstream& line) {
    CommPlace place;
    std::string hex;
    line >> place.generation >> place.rank >> place.size >> hex;
    for (std::size_t i = 0; i < place.id.bytes.size() && 2 * i + 2 <= hex.size(); ++i) {
      place.id.bytes[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
    }
    size_ = place.size;
    if (Status s = gpu_->join("all", place, Clock::now()); !s) return "failed " + s.to_string();
    const auto deadline = Clock::now() + kPatience;
    while (Clock::now() < deadline) {
      gpu_->poll(Clock::now());
      const Communicator* const all = gpu_->find("all");
      if (all == nullptr) return "failed " + gpu_->status().to_string();
      if (all->state() == Communicator::State::kReady) return "joined";
      ::poll(nullptr, 0, 1);
    }
    return "failed it takes too long";
  }

  std::string write(std::istringstream& line) {
    std::uint64_t seed = 0;
    line >> seed;
    auto* const slot = static_cast<std::byte*>(memory_);
    for (std::uint64_t i = 0; i < bytes_; ++i) slot[i] = pattern(i, seed);
    return "written";
  }

  std::uint32_t buckets() const {
    const std::uint64_t each = gpu_->options().bucket_bytes;
    return static_cast<std::uint32_t>((bytes_ + each - 1) / each);
  }
  std::uint64_t bytes_of(std::uint32_t bucket) const {
    const std::uint64_t each = gpu_->options().bucket_bytes;
    return std::min(each, bytes_ - bucket * each);
  }

  std::string move(std::istringstream& line) {
    std::string mode;
    std::uint32_t first = 0;
    std::uint32_t stop_at = 0xffffffff;
    line >> mode >> first;
    line >> stop_at;
    if (line.fail()) stop_at = 0xffffffff;
    const bool is_broadcast = mode == "broadcast";
    std::vector<FlowStep> steps;
    for (std::uint32_t b = first; b < buckets(); ++b) {
      if (is_broadcast) {
        steps.push_back({is_source_ ? FlowStep::Kind::kBroadcastFrom : FlowStep::Kind::kBroadcastTo,
                         0, 0, b, bytes_of(b)});
      } else if (!is_source_) {
        steps.push_back({FlowStep::Kind::kReceive, 0, 0, b, bytes_of(b)});
      } else {
        for (int to = 1; to < size_; ++to) {
          steps.push_back({FlowStep::Kind::kSend, 0, to, b, bytes_of(b)});
        }
      }
    }
    const auto end = make_end(stop_at);
    BucketFlow flow(*gpu_, {"all"}, std::move(steps), *end, Clock::now());
    const Status moved = run(flow, Clock::now() + kPatience, {});
    if (moved) return "done";
    const std::size_t each = is_broadcast || !is_source_ ? 1 : static_cast<std::size_t>(size_ - 1);
    const std::string got = std::to_string(first + flow.done() / each);
    // The end has to live until copies that were queued have run.
    const std::string rested = rest();
    return rested == "rested" ? "failed " + got + " " + moved.to_string() : rested;
  }

  std::unique_ptr<BucketEnd> make_end(std::uint32_t stop_at) {
    auto* const memory = static_cast<std::byte*>(memory_);
    const std::uint64_t each = gpu_->options().bucket_bytes;
    if (is_source_) {
      std::vector<NcclBucketBytes> all;
      for (std::uint32_t b = 0; b < buckets(); ++b) all.push_back({0, b * each, bytes_of(b)});
      return NcclSender::make(*gpu_, {{{memory, bytes_}, nullptr}}, std::move(all), {})
          .value_or_throw();
    }
    std::vector<NcclDestination> all(buckets());
    for (std::uint32_t b = 0; b < buckets(); ++b) {
      std::byte* const to = memory + b * each;
      all[b] = [this, to](std::span<const std::byte> from, driver::Stream stream) {
        const driver::CopyItem item{to, from.data(), from.size()};
        return cuda_->copy(kDevice, {&item, 1}, stream);
      };
    }
    return std::make_unique<NcclReceiver>(std::move(all), [stop_at](std::uint32_t bucket) {
      if (bucket + 1 != stop_at) return;
      say("at " + std::to_string(stop_at));
      while (true) ::pause();
    });
  }

  std::string rest() {
    const auto deadline = Clock::now() + kPatience;
    while (!gpu_->status() && !gpu_->is_lost() && Clock::now() < deadline) {
      gpu_->poll(Clock::now());
      ::poll(nullptr, 0, 1);
    }
    return gpu_->status() ? "rested" : "lost " + gpu_->status().to_string();
  }

  std::string check(std::istringstream& line) {
    std::uint64_t seed = 0;
    line >> seed;
    const driver::CopyItem item{check_, memory_, bytes_};
    if (Status s = cuda_->copy(kDevice, {&item, 1}, gpu_->copy()); !s) return s.to_string();
    if (Status s = cuda_->synchronize(kDevice); !s) return s.to_string();
    const auto* const got = static_cast<const std::byte*>(check_);
    std::uint64_t wrong = 0;
    for (std::uint64_t i = 0; i < bytes_; ++i) wrong += got[i] == pattern(i, seed) ? 0 : 1;
    return wrong == 0 ? "right" : "wrong " + std::to_string(wrong);
  }

  const bool is_source_;
  const std::uint64_t bytes_;
  std::shared_ptr<driver::Cuda> cuda_;
  std::shared_ptr<driver::Nccl> nccl_;
  std::unique_ptr<NcclGpu> gpu_;
  void* memory_ = nullptr;
  void* check_ = nullptr;
  int size_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(540);
  if (argc != 5) {
    say("expected NAME source|receiver BYTES BUCKET_BYTES");
    return 2;
  }
  for (const auto& [name, value] : {std::pair<const char*, const char*>{"NCCL_HOSTID", argv[1]},
                                    {"NCCL_SOCKET_IFNAME", "lo"},
                                    {"NCCL_NET", "Socket"},
                                    {"NCCL_IB_DISABLE", "1"},
                                    {"NCCL_NVLS_ENABLE", "0"}}) {
    ::setenv(name, value, 1);
  }
  try {
    Peer peer(std::string(argv[2]) == "source", std::stoull(argv[3]), std::stoull(argv[4]));
    say("ready");
    for (std::string text; std::getline(std::cin, text);) {
      std::istringstream line(text);
      say(peer.obey(line));
    }
  } catch (const std::exception& error) {
    say(std::string("failed ") + error.what());
    return 1;
  }
  return 0;
}
