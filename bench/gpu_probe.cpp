// What the device and its bus give: copies, digests and gathers through src/driver alone. Prints
// JSON; times are in GB/s of payload, best and median of the rounds.
//
//   gpu_probe [megabytes] [rounds]     (4096 and 9 when absent; takes that once in shared host
//                                       memory and twice on the device)
//
// Host memory is a memfd, mapped shared and registered, as slots are.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "driver/cuda.hpp"

namespace {

using namespace weightcast;
using namespace weightcast::driver;
using Seconds = std::chrono::duration<double>;

constexpr int kDevice = 0;
constexpr std::uint64_t kChunk = 256 << 20;  // of a bucket

void check(const Status& status) {
  if (!status) throw Error(status);
}

double seconds_since(Clock::time_point begin) { return Seconds(Clock::now() - begin).count(); }

class Probe {
 public:
  Probe(std::shared_ptr<Cuda> cuda, std::uint64_t bytes, int rounds)
      : cuda_(std::move(cuda)), bytes_(bytes), rounds_(rounds) {
    const int fd = ::memfd_create("weightcast gpu probe", MFD_CLOEXEC);
    if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
      throw Error(Status(Code::kExhausted, "no shared memory"));
    }
    void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    ::close(fd);
    if (mapped == MAP_FAILED) throw Error(Status(Code::kExhausted, "no mapping"));
    host_ = static_cast<std::byte*>(mapped);
    std::memset(host_, 1, bytes);
    const auto begin = Clock::now();
    check(cuda_->register_host(host_, bytes));
    register_seconds_ = seconds_since(begin);
    first_ = static_cast<std::byte*>(cuda_->allocate(kDevice, bytes).value_or_throw());
    second_ = static_cast<std::byte*>(cuda_->allocate(kDevice, bytes).value_or_throw());
    for (Stream& stream : streams_) stream = cuda_->create_stream(kDevice, false).value_or_throw();
    check(chunks(first_, host_, bytes, streams_[0]));
    check(chunks(second_, host_, bytes, streams_[0]));
    check(cuda_->synchronize(kDevice));
  }
  ~Probe() {
    for (Stream stream : streams_) cuda_->destroy_stream(kDevice, stream);
    cuda_->free(kDevice, second_);
    cuda_->free(kDevice, first_);
    cuda_->unregister_host(host_, bytes_);
    ::munmap(host_, bytes_);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  Status chunks(std::byte* to, const std::byte* from, std::uint64_t bytes, Stream stream) {
    std::vector<CopyItem> items;
    for (std::uint64_t at = 0; at < bytes; at += kChunk) {
      items.push_back({to + at, from + at, std::min(kChunk, bytes - at)});
    }
    return cuda_->copy(kDevice, items, stream);
  }

  /// Times `queue` until the device is idle, and writes a line of JSON.
  void measure(const char* name, std::uint64_t bytes, const std::function<void()>& queue) {
    std::vector<double> all, host;
    for (int i = 0; i <= rounds_; ++i) {
      const auto begin = Clock::now();
      queue();
      const double queued = seconds_since(begin);
      check(cuda_->synchronize(kDevice));
      if (i == 0) continue;  // the first warms up
      all.push_back(seconds_since(begin));
      host.push_back(queued);
    }
    std::sort(all.begin(), all.end());
    std::sort(host.begin(), host.end());
    const auto rate = [&](double seconds) { return static_cast<double>(bytes) / seconds / 1e9; };
    std::printf(",\n  \"%s\": {\"best_gb_s\": %.2f, \"median_gb_s\": %.2f, \"median_ms\": %.3f, "
                "\"host_ms\": %.3f}",
                name, rate(all.front()), rate(all[all.size() / 2]), 1e3 * all[all.size() / 2],
                1e3 * host[host.size() / 2]);
  }

  // Sizes of a model's tensors, some of each, at borders of 64 bytes.
  std::vector<DigestPart> tensors(std::uint64_t bytes, std::size_t count) const {
    static constexpr std::uint64_t kShares[] = {1, 3000, 3000, 1000, 6000, 6000, 6000, 1, 1000};
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < count; ++i) all += kShares[i % std::size(kShares)];
    std::vector<DigestPart> parts;
    std::uint64_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t size = bytes / all * kShares[i % std::size(kShares)] / 64 * 64;
      parts.push_back({first_ + at, size, 0, static_cast<std::uint32_t>(i)});
      at += size;
    }
    return parts;
  }

  void run() {
    const std::uint64_t half = bytes_ / 2 / kChunk * kChunk;
    measure("d2h", bytes_, [&] { check(chunks(host_, first_, bytes_, streams_[0])); });
    measure("h2d", bytes_, [&] { check(chunks(first_, host_, bytes_, streams_[0])); });
    measure("d2h_and_h2d", 2 * half, [&] {
      check(chunks(host_, first_, half, streams_[0]));
      check(chunks(second_, host_ + half, half, streams_[1]));
    });
    measure("d2d", bytes_, [&] { check(chunks(second_, first_, bytes_, streams_[0])); });

    const auto one = cuda_->make_digests(kDevice, 1, 1).value_or_throw();
    const DigestPart whole{first_, bytes_, 0, 0};
    measure("digest_of_one_tensor", bytes_, [&] { check(one->start({&whole, 1}, streams_[0])); });
    const auto many = cuda_->make_digests(kDevice, 399, 399).value_or_throw();
    const auto parts = tensors(bytes_, 399);
    std::uint64_t in_parts = 0;
    for (const DigestPart& part : parts) in_parts += part.bytes;
    measure("digest_of_399_tensors", in_parts, [&] { check(many->start(parts, streams_[0])); });
    const DigestPart off_8{first_ + 8, bytes_ - 64, 0, 0};
    measure("digest_aligned_to_8", off_8.bytes,
            [&] { check(one->start({&off_8, 1}, streams_[0])); });
    const DigestPart off_2{first_ + 2, bytes_ - 64, 0, 0};
    measure("digest_aligned_to_2", off_2.bytes,
            [&] { check(one->start({&off_2, 1}, streams_[0])); });
    measure("digest_beside_d2h", bytes_, [&] {
      check(one->start({&whole, 1}, streams_[1]));
      check(chunks(host_, first_, bytes_, streams_[0]));
    });

    std::vector<CopyItem> copies;
    for (const DigestPart& part : parts) {
      const auto* from = static_cast<const std::byte*>(part.data);
      copies.push_back({second_ + (from - first_), from, part.bytes});
    }
    measure("d2d_of_399_tensors", in_parts,
            [&] { check(cuda_->copy(kDevice, copies, streams_[0])); });
    const GatherItem cast{second_, DType::kBF16, first_, DType::kF32, bytes_ / 4, {}, {}};
    measure("cast_f32_to_bf16_read", bytes_,
            [&] { check(cuda_->gather(kDevice, {&cast, 1}, streams_[0])); });
    const auto columns = static_cast<std::int64_t>(4096);
    const auto rows = static_cast<std::int64_t>(bytes_ / 2 / 4096);
    const std::int64_t shape[] = {columns, rows}, strides[] = {1, columns};
    const GatherItem transposed{second_, DType::kBF16, first_, DType::kBF16,
                                static_cast<std::uint64_t>(rows * columns), shape, strides};
    measure("gather_transposed_bf16", bytes_,
            [&] { check(cuda_->gather(kDevice, {&transposed, 1}, streams_[0])); });
  }

  double register_seconds() const { return register_seconds_; }

 private:
  std::shared_ptr<Cuda> cuda_;
  std::uint64_t bytes_;
  int rounds_;
  double register_seconds_ = 0;
  std::byte* host_ = nullptr;
  std::byte* first_ = nullptr;
  std::byte* second_ = nullptr;
  Stream streams_[2] = {};
};

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t megabytes = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4096;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  if (megabytes < 512 || rounds < 1) {
    std::fprintf(stderr, "expected gpu_probe [megabytes >= 512] [rounds >= 1]\n");
    return 2;
  }
  try {
    const auto cuda = load_cuda().value_or_throw();
    const auto device = cuda->properties(kDevice).value_or_throw();
    const auto memory = cuda->memory(kDevice).value_or_throw();
    Probe probe(cuda, megabytes << 20, rounds);
    std::printf("{\n  \"device\": \"%s\", \"multiprocessors\": %d, \"registers_read_only\": %s,\n"
                "  \"free_bytes\": %llu, \"bytes\": %llu, \"rounds\": %d, \"register_s\": %.3f",
                device.name.c_str(), device.multiprocessors,
                device.registers_read_only ? "true" : "false",
                static_cast<unsigned long long>(memory.free),
                static_cast<unsigned long long>(megabytes << 20), rounds,
                probe.register_seconds());
    probe.run();
    std::printf("\n}\n");
  } catch (const Error& error) {
    std::fprintf(stderr, "gpu_probe: %s\n", error.what());
    return 1;
  }
  return 0;
}
