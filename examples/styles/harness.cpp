#include "styles/harness.hpp"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace styles {
namespace {

constexpr std::size_t kFloor = 10;  // versions that a run must have served
constexpr std::size_t kBatchFloats = 512;

std::uint64_t hash(const std::vector<torch::Tensor>& tensors) {
  std::uint64_t sum = 1;
  for (const auto& tensor : tensors) {
    const auto bytes = tensor.detach().contiguous();
    sum = XXH3_64bits_withSeed(bytes.const_data_ptr(), bytes.nbytes(), sum);
  }
  return sum == 0 ? 1 : sum;
}

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

/// A trainer's and a worker's end, small, with a minute's patience.
struct Ends {
  Ends() {
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both) != 0) fail("socketpair");
    const int size = 4096;
    const timeval patience{60, 0};
    for (const int end : both) {
      setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
      setsockopt(end, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
      setsockopt(end, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    }
  }
  ~Ends() {
    close_end(0);
    close_end(1);
  }
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;
  void close_end(int which) {
    if (both[which] >= 0) ::close(std::exchange(both[which], -1));
  }
  int both[2] = {-1, -1};
};

bool work_in(int socket, Ledger& ledger, const std::function<void(Loop&)>& work) {
  try {
    Samples samples(socket);
    Loop loop{ledger, samples};
    work(loop);
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker: %s\n", error.what());
    return false;
  }
}

/// @return the score; NaN when training failed
double train_in(int socket, Ledger& ledger, const std::function<double(Loop&)>& train) {
  try {
    Samples samples(socket);
    Loop loop{ledger, samples};
    return train(loop);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trainer: %s\n", error.what());
    return NAN;
  }
}

}  // namespace

void Ledger::published(std::uint64_t version, const std::vector<torch::Tensor>& tensors) {
  if (version >= kVersions)
    throw std::runtime_error("ledger: version " + std::to_string(version) + " is too large");
  std::uint64_t none = 0;
  versions_[version].published.compare_exchange_strong(none, hash(tensors));
}

void Ledger::served(std::uint64_t version, const std::vector<torch::Tensor>& tensors) {
  const std::uint64_t sum = hash(tensors);
  std::uint64_t before = 0;
  if (version >= kVersions ||
      (!versions_[version].served.compare_exchange_strong(before, sum) && before != sum)) {
    ++torn_;
  }
}

bool Ledger::agrees(const char* name, std::size_t floor) const {
  std::size_t published = 0;
  std::size_t served = 0;
  std::size_t equal = 0;
  for (const Version& version : versions_) {
    const std::uint64_t theirs = version.served.load();
    published += version.published.load() != 0;
    served += theirs != 0;
    equal += theirs != 0 && theirs == version.published.load();
  }
  std::printf("%s: %zu versions published, %zu served, %zu of them bit for bit, %llu torn\n", name,
              published, served, equal, static_cast<unsigned long long>(torn_.load()));
  return served >= floor && equal == served && torn_.load() == 0;
}

bool Samples::send(const torch::Tensor& batch) {
  const auto floats = batch.detach().to(torch::kFloat32).contiguous();
  if (floats.dim() != 2 || floats.numel() + 1 > static_cast<std::int64_t>(kBatchFloats)) {
    throw std::runtime_error("samples: a batch has two dimensions and at most 2 KiB");
  }
  float packet[kBatchFloats];
  packet[0] = static_cast<float>(floats.size(1));
  std::memcpy(packet + 1, floats.const_data_ptr<float>(), floats.nbytes());
  return ::send(socket_, packet, sizeof(float) + floats.nbytes(), MSG_NOSIGNAL) >= 0;
}

torch::Tensor Samples::receive() {
  float packet[kBatchFloats];
  const auto got = ::recv(socket_, packet, sizeof(packet), 0);
  if (got < 0) fail("samples: nothing from the worker");
  if (got == 0) throw std::runtime_error("samples: the worker has ended");
  const auto count = static_cast<std::int64_t>(got / sizeof(float)) - 1;
  const auto columns = static_cast<std::int64_t>(packet[0]);
  return torch::from_blob(packet + 1, {count / columns, columns}).clone();
}

int run(const char* name, Worker where, const std::function<double(Loop&)>& train,
        const std::function<void(Loop&)>& work, double wanted) try {
  void* const memory =
      mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  const auto unmap = [](Ledger* ledger) { munmap(ledger, sizeof(Ledger)); };
  const std::unique_ptr<Ledger, decltype(unmap)> ledger(new (memory) Ledger, unmap);
  Ends ends;
  bool worked = false;
  double score = NAN;

  if (where == Worker::kProcess) {
    const pid_t child = fork();  // before anything has started a thread
    if (child < 0) fail("fork");
    if (child == 0) {
      ends.close_end(0);
      _exit(work_in(ends.both[1], *ledger, work) ? 0 : 1);
    }
    ends.close_end(1);
    score = train_in(ends.both[0], *ledger, train);
    ends.close_end(0);
    int status = 0;
    worked = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  } else {
    std::thread worker([&] {
      worked = work_in(ends.both[1], *ledger, work);
      shutdown(ends.both[1], SHUT_RDWR);
    });
    score = train_in(ends.both[0], *ledger, train);
    shutdown(ends.both[0], SHUT_RDWR);
    worker.join();
  }

  std::printf("%s: score %.2f, wanted %.2f\n", name, score, wanted);
  const bool agrees = ledger->agrees(name, kFloor);
  return worked && agrees && score >= wanted ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s: %s\n", name, error.what());
  return 1;
}

}  // namespace styles
