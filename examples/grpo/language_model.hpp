#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace grpo {

struct ModelShape {
  std::int64_t vocabulary = 0;
  std::int64_t context = 0;  ///< Tokens of the longest sequence.
  std::int64_t width = 64;   ///< A multiple of `heads`.
  std::int64_t layers = 2;
  std::int64_t heads = 4;
};

/// Keys and values of the tokens that a model has read, for one batch of sequences: what makes the
/// next token cost one position and not all of them. Belongs to the weights that filled it.
class KeyValueCache {
 public:
  /// Room for sequences of the shape's context, on the device and of the type of `like`.
  KeyValueCache(const ModelShape& shape, std::int64_t batch, const torch::Tensor& like);

  /// Every sequence `times` times in a row: a prompt is read once for all its samples.
  [[nodiscard]] KeyValueCache repeated(std::int64_t times) const;

  /// Tokens that are in it.
  [[nodiscard]] std::int64_t length() const { return length_; }

 private:
  friend class BlockImpl;
  friend class LanguageModelImpl;
  KeyValueCache() = default;

  std::vector<torch::Tensor> keys_;    // One a layer: [batch, heads, context, width / heads].
  std::vector<torch::Tensor> values_;  // As keys_.
  std::int64_t length_ = 0;
};

/// One layer: attention and a feed-forward network, each behind an RMSNorm and around a residual.
class BlockImpl : public torch::nn::Module {
 public:
  explicit BlockImpl(const ModelShape& shape);

  /// @param hidden [batch, tokens, width].
  /// @param cache null, or what the layer reads the earlier tokens from and adds these to.
  torch::Tensor forward(const torch::Tensor& hidden, KeyValueCache* cache, std::int64_t layer);

 private:
  torch::Tensor attend(const torch::Tensor& hidden, KeyValueCache* cache, std::int64_t layer);

  std::int64_t heads_;
  torch::Tensor attention_norm_, feed_norm_;
  torch::Tensor query_key_value_, attention_out_, feed_in_, feed_out_;
};

/// A decoder-only transformer with learned positions. Its last layer is its token embedding under a
/// second name ("head" is "embedding"), as in most language models.
class LanguageModelImpl : public torch::nn::Module {
 public:
  /// @throw std::invalid_argument for a shape that cannot be.
  explicit LanguageModelImpl(const ModelShape& shape);

  /// @param tokens long [batch, tokens]; with a cache, those that follow what it holds.
  /// @param cache null, or a cache of this batch; it holds these tokens too afterwards.
  /// @return logits of each next token, [batch, tokens, vocabulary].
  /// @throw std::invalid_argument where they are more than the context holds.
  torch::Tensor forward(const torch::Tensor& tokens, KeyValueCache* cache = nullptr);

  /// The parameters without second names: what an optimizer is to step.
  [[nodiscard]] std::vector<torch::Tensor> distinct_parameters() const;

  [[nodiscard]] const ModelShape& shape() const { return shape_; }
  [[nodiscard]] const torch::Tensor& embedding() const { return embedding_; }

 private:
  ModelShape shape_;
  torch::Tensor embedding_, positions_, head_, norm_;
  std::vector<std::shared_ptr<BlockImpl>> blocks_;
};

/// "tiny" (tests), "small" (two CPU cores) or "medium" (a GPU); vocabulary and context are the
/// task's.
/// @throw std::invalid_argument for another name.
[[nodiscard]] ModelShape shape_of_size(const std::string& size, std::int64_t vocabulary,
                                       std::int64_t context);

}  // namespace grpo
