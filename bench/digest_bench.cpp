// Copying and digesting in units of a memcpy of the same bytes, one thread, same run. Prints JSON.
//
//   digest_bench [megabytes] [rounds]     (512 and 9 when absent)
//
// All buffers are touched before the first round; the variants take turns in each round, and the
// median of each counts, so that a noisy neighbour hits all of them.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "codec/convert.hpp"
#include "codec/digest.hpp"

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Variant {
  const char* name;
  std::function<void()> run;
  std::vector<double> seconds;
};

}  // namespace

int main(int argc, char** argv) {
  using namespace weightcast;
  const std::size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 512;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  if (megabytes == 0 || rounds < 1) {
    std::fprintf(stderr, "expected digest_bench [megabytes >= 1] [rounds >= 1]\n");
    return 2;
  }
  const std::size_t bytes = megabytes * 1000 * 1000 / 64 * 64;

  std::vector<float> source(bytes / 4);
  for (std::size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<float>(i % 8191) * 0.001f - 4.0f;
  }
  std::vector<std::byte> storage(bytes + 64, std::byte{1});
  const auto misaligned = reinterpret_cast<std::uintptr_t>(storage.data()) % 64;
  std::byte* to = storage.data() + (64 - misaligned) % 64;
  base::Digest sink;

  std::vector<Variant> variants;
  variants.push_back({"memcpy", [&] { std::memcpy(to, source.data(), bytes); }, {}});
  variants.push_back(
      {"digest", [&] { sink += codec::digest(source.data(), bytes, 0); }, {}});
  variants.push_back({"copy_and_digest",
                      [&] { sink += codec::copy_and_digest(to, source.data(), bytes, 0); },
                      {}});
  variants.push_back({"copy_then_digest_placed",
                      [&] { sink += codec::copy_then_digest_placed(to, source.data(), bytes, 0); },
                      {}});
  variants.push_back({"cast_f32_bf16",
                      [&] {
                        if (!codec::cast(to, DType::kBF16, source.data(), DType::kF32,
                                         source.size())) {
                          std::abort();
                        }
                      },
                      {}});
  for (int round = -1; round < rounds; ++round) {
    for (Variant& variant : variants) {
      const auto begin = std::chrono::steady_clock::now();
      variant.run();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      if (round >= 0) variant.seconds.push_back(took.count());
    }
  }

  const double unit = median(variants[0].seconds);
  std::string text = "{\"bytes\": " + std::to_string(bytes) +
                     ", \"rounds\": " + std::to_string(rounds) + ", \"variants\": {";
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const double seconds = median(variants[i].seconds);
    char line[160];
    std::snprintf(line, sizeof line, "%s\"%s\": {\"gb_per_s\": %.2f, \"memcpys\": %.3f}",
                  i == 0 ? "" : ", ", variants[i].name,
                  static_cast<double>(bytes) / seconds / 1e9, seconds / unit);
    text += line;
  }
  std::printf("%s}, \"check\": \"%016llx\"}\n", text.c_str(),
              static_cast<unsigned long long>(sink.a));
  return 0;
}
