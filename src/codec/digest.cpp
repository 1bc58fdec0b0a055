#include "codec/digest.hpp"

#include <algorithm>

#include "codec/digest_kernels.hpp"

namespace weightcast::codec {
namespace detail {
namespace {

base::Digest digest_words_portable(const std::byte* data, std::size_t words,
                                   std::uint64_t first_word) noexcept {
  // Two sums, so that one word's multiplications do not wait for the other's additions.
  base::Digest even, odd;
  std::uint64_t position = (first_word + 1) * kPositionStep;
  std::size_t i = 0;
  for (; i + 2 <= words; i += 2) {
    mix_word(even, load_word(data + 8 * i), position);
    mix_word(odd, load_word(data + 8 * i + 8), position + kPositionStep);
    position += 2 * kPositionStep;
  }
  if (i < words) mix_word(even, load_word(data + 8 * i), position);
  return even + odd;
}

base::Digest copy_words_portable(std::byte* destination, const std::byte* source,
                                 std::size_t words, std::uint64_t first_word) noexcept {
  base::Digest even, odd;
  std::uint64_t position = (first_word + 1) * kPositionStep;
  std::size_t i = 0;
  for (; i + 2 <= words; i += 2) {
    const std::uint64_t pair[2] = {load_word(source + 8 * i), load_word(source + 8 * i + 8)};
    std::memcpy(destination + 8 * i, pair, sizeof pair);
    mix_word(even, pair[0], position);
    mix_word(odd, pair[1], position + kPositionStep);
    position += 2 * kPositionStep;
  }
  if (i < words) {
    const std::uint64_t word = load_word(source + 8 * i);
    std::memcpy(destination + 8 * i, &word, sizeof word);
    mix_word(even, word, position);
  }
  return even + odd;
}

base::Digest place_words_portable(std::byte* destination, const std::byte* source,
                                  std::size_t words, std::uint64_t first_word) noexcept {
  base::Digest sum;
  for (std::size_t done = 0; done < words;) {
    const std::size_t piece = std::min(kPlacePieceWords, words - done);
    std::memcpy(destination + 8 * done, source + 8 * done, 8 * piece);
    sum += digest_words_portable(destination + 8 * done, piece, first_word + done);
    done += piece;
  }
  return sum;
}

const Kernels& kernels() noexcept {
#if WEIGHTCAST_HAVE_AVX2_KERNELS
  static const Kernels& chosen = __builtin_cpu_supports("avx2") ? kAvx2Kernels : kPortableKernels;
  return chosen;
#else
  return kPortableKernels;
#endif
}

}  // namespace

const Kernels kPortableKernels{digest_words_portable, copy_words_portable, place_words_portable};

}  // namespace detail

namespace {

void add_last_word(base::Digest& sum, const std::byte* from, std::size_t bytes,
                   std::uint64_t word_index) noexcept {
  if (bytes == 0) return;
  detail::mix_word(sum, detail::load_partial_word(from, bytes),
                   (word_index + 1) * detail::kPositionStep);
}

}  // namespace

base::Digest digest(const void* data, std::size_t bytes, std::uint64_t first_word) noexcept {
  const auto* from = static_cast<const std::byte*>(data);
  const std::size_t words = bytes / 8;
  base::Digest sum = detail::kernels().digest_words(from, words, first_word);
  add_last_word(sum, from + 8 * words, bytes % 8, first_word + words);
  return sum;
}

base::Digest copy_and_digest(void* destination, const void* source, std::size_t bytes,
                             std::uint64_t first_word) noexcept {
  auto* to = static_cast<std::byte*>(destination);
  const auto* from = static_cast<const std::byte*>(source);
  const std::size_t words = bytes / 8;
  base::Digest sum = detail::kernels().copy_words(to, from, words, first_word);
  if (const std::size_t rest = bytes % 8; rest != 0) {
    // Digested from one read, so that the sum is of the bytes that were stored.
    const std::uint64_t last = detail::load_partial_word(from + 8 * words, rest);
    std::memcpy(to + 8 * words, &last, rest);
    detail::mix_word(sum, last, (first_word + words + 1) * detail::kPositionStep);
  }
  return sum;
}

base::Digest copy_then_digest_placed(void* destination, const void* source, std::size_t bytes,
                                     std::uint64_t first_word) noexcept {
  auto* to = static_cast<std::byte*>(destination);
  const auto* from = static_cast<const std::byte*>(source);
  const std::size_t words = bytes / 8;
  base::Digest sum = detail::kernels().place_words(to, from, words, first_word);
  if (bytes % 8 != 0) std::memcpy(to + 8 * words, from + 8 * words, bytes % 8);
  add_last_word(sum, to + 8 * words, bytes % 8, first_word + words);
  return sum;
}

base::Digest digest_reference(const void* data, std::size_t bytes,
                              std::uint64_t first_word) noexcept {
  const auto* from = static_cast<const std::byte*>(data);
  base::Digest sum;
  for (std::size_t at = 0; at < bytes; at += 8) {
    detail::mix_word(sum, detail::load_partial_word(from + at, std::min<std::size_t>(8, bytes - at)),
                     (first_word + at / 8 + 1) * detail::kPositionStep);
  }
  return sum;
}

}  // namespace weightcast::codec
