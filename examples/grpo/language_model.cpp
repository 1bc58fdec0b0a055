#include "language_model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <unordered_set>

#include <torch/types.h>
#include <torch/utils.h>

namespace grpo {
namespace {

constexpr double kNormEpsilon = 1e-6;

torch::Tensor normal(std::int64_t rows, std::int64_t columns, double deviation) {
  return torch::randn({rows, columns}) * deviation;
}

torch::Tensor rms_norm(const torch::Tensor& hidden, const torch::Tensor& scale) {
  return hidden * torch::rsqrt(hidden.square().mean(-1, true) + kNormEpsilon) * scale;
}

// Which of the tokens before and with it each of `tokens` tokens may see, after `before` others.
torch::Tensor causal_mask(std::int64_t tokens, std::int64_t before, torch::Device device) {
  return torch::ones({tokens, before + tokens}, torch::TensorOptions(torch::kBool).device(device))
      .tril(before);
}

}  // namespace

KeyValueCache::KeyValueCache(const ModelShape& shape, std::int64_t batch,
                             const torch::Tensor& like) {
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    for (auto* tensors : {&keys_, &values_}) {
      tensors->push_back(torch::empty(
          {batch, shape.heads, shape.context, shape.width / shape.heads}, like.options()));
    }
  }
}

KeyValueCache KeyValueCache::repeated(std::int64_t times) const {
  KeyValueCache out;
  out.length_ = length_;
  for (const torch::Tensor& keys : keys_) out.keys_.push_back(keys.repeat_interleave(times, 0));
  for (const torch::Tensor& values : values_) {
    out.values_.push_back(values.repeat_interleave(times, 0));
  }
  return out;
}

BlockImpl::BlockImpl(const ModelShape& shape) : heads_(shape.heads) {
  const std::int64_t width = shape.width;
  const double deviation = 1.0 / std::sqrt(3.0 * static_cast<double>(width));
  // What is added to the residual starts smaller the more layers add to it.
  const double added = deviation / std::sqrt(static_cast<double>(shape.layers) / 2.0);
  attention_norm_ = register_parameter("attention_norm", torch::ones({width}));
  query_key_value_ = register_parameter("query_key_value", normal(3 * width, width, deviation));
  attention_out_ = register_parameter("attention_out", normal(width, width, added));
  feed_norm_ = register_parameter("feed_norm", torch::ones({width}));
  feed_in_ = register_parameter("feed_in", normal(4 * width, width, deviation));
  feed_out_ = register_parameter("feed_out", normal(width, 4 * width, added / 2.0));
}

torch::Tensor BlockImpl::forward(const torch::Tensor& hidden, KeyValueCache* cache,
                                 std::int64_t layer) {
  const torch::Tensor attended =
      hidden + attend(rms_norm(hidden, attention_norm_), cache, layer);
  const torch::Tensor fed = torch::gelu(torch::linear(rms_norm(attended, feed_norm_), feed_in_));
  return attended + torch::linear(fed, feed_out_);
}

torch::Tensor BlockImpl::attend(const torch::Tensor& hidden, KeyValueCache* cache,
                                std::int64_t layer) {
  const std::int64_t batch = hidden.size(0);
  const std::int64_t tokens = hidden.size(1);
  const torch::Tensor joined = torch::linear(hidden, query_key_value_)
                                   .view({batch, tokens, 3, heads_, -1})
                                   .permute({2, 0, 3, 1, 4});
  const torch::Tensor query = joined.select(0, 0);
  torch::Tensor keys = joined.select(0, 1);
  torch::Tensor values = joined.select(0, 2);
  std::int64_t before = 0;
  if (cache != nullptr) {
    const auto at = static_cast<std::size_t>(layer);
    before = cache->length_;
    cache->keys_[at].narrow(2, before, tokens).copy_(keys);
    cache->values_[at].narrow(2, before, tokens).copy_(values);
    keys = cache->keys_[at].narrow(2, 0, before + tokens);
    values = cache->values_[at].narrow(2, 0, before + tokens);
  }
  // A single token sees all there is; without tokens before them the kernels know the mask.
  std::optional<torch::Tensor> mask;
  if (before > 0 && tokens > 1) mask = causal_mask(tokens, before, hidden.device());
  const bool is_causal = before == 0 && tokens > 1;
  const torch::Tensor mixed =
      torch::scaled_dot_product_attention(query, keys, values, mask, 0.0, is_causal);
  return torch::linear(mixed.transpose(1, 2).reshape({batch, tokens, -1}), attention_out_);
}

LanguageModelImpl::LanguageModelImpl(const ModelShape& shape) : shape_(shape) {
  if (shape.vocabulary < 1 || shape.context < 1 || shape.layers < 1 || shape.heads < 1 ||
      shape.width < 1 || shape.width % shape.heads != 0) {
    throw std::invalid_argument(
        "a model needs a vocabulary, a context, layers, and a width that is a multiple of its "
        "heads; this one has a width of " +
        std::to_string(shape.width) + " and " + std::to_string(shape.heads) + " heads");
  }
  const double deviation = 1.0 / std::sqrt(static_cast<double>(shape.width));
  embedding_ =
      register_parameter("embedding", normal(shape.vocabulary, shape.width, deviation));
  positions_ = register_parameter("positions", normal(shape.context, shape.width, deviation));
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    blocks_.push_back(register_module("block_" + std::to_string(layer),
                                      std::make_shared<BlockImpl>(shape)));
  }
  norm_ = register_parameter("norm", torch::ones({shape.width}));
  head_ = register_parameter("head", embedding_);
}

torch::Tensor LanguageModelImpl::forward(const torch::Tensor& tokens, KeyValueCache* cache) {
  const std::int64_t before = cache != nullptr ? cache->length() : 0;
  const std::int64_t count = tokens.size(1);
  if (before + count > shape_.context) {
    throw std::invalid_argument("the context holds " + std::to_string(shape_.context) +
                                " tokens, but there are " + std::to_string(before + count));
  }
  torch::Tensor hidden =
      torch::embedding(embedding_, tokens) + positions_.narrow(0, before, count);
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    hidden = blocks_[layer]->forward(hidden, cache, static_cast<std::int64_t>(layer));
  }
  if (cache != nullptr) cache->length_ += count;
  return torch::linear(rms_norm(hidden, norm_), head_);
}

std::vector<torch::Tensor> LanguageModelImpl::distinct_parameters() const {
  std::vector<torch::Tensor> distinct;
  std::unordered_set<const void*> seen;
  for (const torch::Tensor& parameter : parameters()) {
    if (seen.insert(parameter.unsafeGetTensorImpl()).second) distinct.push_back(parameter);
  }
  return distinct;
}

ModelShape shape_of_size(const std::string& size, std::int64_t vocabulary, std::int64_t context) {
  ModelShape shape{.vocabulary = vocabulary, .context = context};
  if (size == "tiny") {
    shape.width = 16;
    shape.layers = 1;
    shape.heads = 2;
  } else if (size == "medium") {
    shape.width = 768;
    shape.layers = 12;
    shape.heads = 12;
  } else if (size != "small") {
    throw std::invalid_argument("expected a size of tiny, small or medium, but got '" + size + "'");
  }
  return shape;
}

}  // namespace grpo
