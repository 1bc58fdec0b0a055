#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace grpo {

/// A sum to be found.
struct Problem {
  std::uint32_t left = 0;
  std::uint32_t right = 0;

  friend bool operator==(const Problem&, const Problem&) = default;
};

/// Addition as text: the prompt is "07+25=", its one right completion "23.", which is the sum with
/// the last digit first and a full stop (in that order each digit depends on what was read or
/// written already; Lee et al. 2023, arXiv 2307.03381). One problem in twenty is held out: it is
/// never drawn.
class Arithmetic {
 public:
  /// @param digits of each operand, which is padded with zeros; 1 to 4.
  explicit Arithmetic(int digits = 2);

  /// Characters that exist, in the order of their tokens.
  static constexpr std::string_view kAlphabet = "0123456789+=.";
  static constexpr std::int64_t kVocabulary = static_cast<std::int64_t>(kAlphabet.size());
  static constexpr std::uint8_t kEnd = 12;  ///< Token of the full stop.

  [[nodiscard]] std::int64_t prompt_length() const { return 2 * digits_ + 2; }
  /// Of the longest right completion, which is where generation stops.
  [[nodiscard]] std::int64_t completion_length() const { return digits_ + 2; }

  [[nodiscard]] std::string prompt(const Problem& problem) const;
  [[nodiscard]] std::string answer(const Problem& problem) const;

  /// 1 where the text up to and with its first full stop is the answer, else 0. There is no credit
  /// for a part of it.
  [[nodiscard]] float reward(const Problem& problem, std::string_view completion) const;

  /// Does not depend on any seed.
  [[nodiscard]] bool is_held_out(const Problem& problem) const;
  /// A problem that is not held out, each as likely as any other.
  [[nodiscard]] Problem draw(std::mt19937_64& random) const;
  /// The first `count` of the held-out problems in a fixed order, or all where there are fewer.
  [[nodiscard]] std::vector<Problem> held_out(std::size_t count) const;

  [[nodiscard]] int digits() const { return digits_; }

 private:
  int digits_;
  std::uint32_t limit_;  // Operands are below it.
};

/// @pre every character is in the alphabet.
[[nodiscard]] std::vector<std::uint8_t> to_tokens(std::string_view text);
/// @pre every token is below kVocabulary.
[[nodiscard]] std::string to_text(std::span<const std::uint8_t> tokens);

}  // namespace grpo
