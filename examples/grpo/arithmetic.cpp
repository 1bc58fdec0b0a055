#include "arithmetic.hpp"

#include <algorithm>
#include <stdexcept>

namespace grpo {
namespace {

constexpr std::uint64_t kHeldOutOneIn = 20;

// splitmix64: spreads neighbours apart.
std::uint64_t mixed(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

std::uint64_t key(const Problem& problem) {
  return (std::uint64_t{problem.left} << 32) | problem.right;
}

std::string padded(std::uint32_t value, int digits) {
  std::string text = std::to_string(value);
  text.insert(0, static_cast<std::size_t>(digits) - std::min<std::size_t>(text.size(), digits),
              '0');
  return text;
}

}  // namespace

Arithmetic::Arithmetic(int digits) : digits_(digits), limit_(1) {
  if (digits < 1 || digits > 4) {
    throw std::invalid_argument("expected operands of 1 to 4 digits, but got " +
                                std::to_string(digits));
  }
  for (int i = 0; i < digits; ++i) limit_ *= 10;
}

std::string Arithmetic::prompt(const Problem& problem) const {
  return padded(problem.left, digits_) + "+" + padded(problem.right, digits_) + "=";
}

std::string Arithmetic::answer(const Problem& problem) const {
  std::string text = std::to_string(problem.left + problem.right);
  std::reverse(text.begin(), text.end());
  return text + ".";
}

float Arithmetic::reward(const Problem& problem, std::string_view completion) const {
  const std::size_t stop = completion.find('.');
  if (stop == std::string_view::npos) return 0.0F;
  return completion.substr(0, stop + 1) == answer(problem) ? 1.0F : 0.0F;
}

bool Arithmetic::is_held_out(const Problem& problem) const {
  return mixed(key(problem)) % kHeldOutOneIn == 0;
}

Problem Arithmetic::draw(std::mt19937_64& random) const {
  std::uniform_int_distribution<std::uint32_t> operand(0, limit_ - 1);
  for (;;) {
    const Problem problem{.left = operand(random), .right = operand(random)};
    if (!is_held_out(problem)) return problem;
  }
}

std::vector<Problem> Arithmetic::held_out(std::size_t count) const {
  // In an order that takes operands of all sizes in: by a stride that meets every problem once,
  // since it shares no factor with a power of ten.
  constexpr std::uint64_t kStride = 61'803'398'877;
  const std::uint64_t problems = std::uint64_t{limit_} * limit_;
  std::vector<Problem> found;
  for (std::uint64_t i = 0, at = 0; i < problems && found.size() < count;
       ++i, at = (at + kStride) % problems) {
    const Problem problem{.left = static_cast<std::uint32_t>(at / limit_),
                          .right = static_cast<std::uint32_t>(at % limit_)};
    if (is_held_out(problem)) found.push_back(problem);
  }
  return found;
}

std::vector<std::uint8_t> to_tokens(std::string_view text) {
  std::vector<std::uint8_t> tokens;
  for (const char character : text) {
    tokens.push_back(static_cast<std::uint8_t>(Arithmetic::kAlphabet.find(character)));
  }
  return tokens;
}

std::string to_text(std::span<const std::uint8_t> tokens) {
  std::string text;
  for (const std::uint8_t token : tokens) text.push_back(Arithmetic::kAlphabet[token]);
  return text;
}

}  // namespace grpo
