#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/jit.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <weightcast/torch/tensor_list.hpp>

namespace {

using weightcast::Code;
using weightcast::DType;
using weightcast::ExtraTensors;
using weightcast::NamedTensor;
using weightcast::NameFilter;
using weightcast::Status;
using weightcast::TensorList;
using weightcast::TensorView;

template <class Source>
std::vector<NamedTensor> named(Source&& source) {
  std::vector<NamedTensor> out;
  weightcast::make_lister(std::forward<Source>(source))(out);
  return out;
}

std::vector<std::string> names(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> out;
  for (const auto& t : tensors) out.push_back(t.name);
  return out;
}

TensorList list(std::vector<NamedTensor> tensors, const NameFilter& filter = {}) {
  TensorList out;
  const Status status = weightcast::list_tensors(std::move(tensors), filter, out);
  EXPECT_TRUE(status) << status.to_string();
  return out;
}

Status status_of(std::vector<NamedTensor> tensors, const NameFilter& filter = {}) {
  TensorList out;
  return weightcast::list_tensors(std::move(tensors), filter, out);
}

bool says(const Status& status, const std::string& part) {
  return status.message().find(part) != std::string::npos;
}

// The tensor that a view describes, read as the core reads it.
torch::Tensor read(const TensorView& view) {
  auto options = torch::TensorOptions().dtype(weightcast::scalar_type_of(view.info.dtype));
  auto* data = const_cast<void*>(view.data);
  if (view.strides.empty()) return torch::from_blob(data, view.info.shape, options).clone();
  return torch::from_blob(data, view.info.shape, view.strides, options).clone();
}

struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    embed = register_parameter("embed", torch::randn({5, 3}));
    head = register_parameter("head", embed);
    body = register_module("body", torch::nn::Linear(3, 3));
    norm = register_module("norm", torch::nn::BatchNorm1d(3));
  }
  torch::Tensor embed, head;
  torch::nn::Linear body{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Tied);

TEST(TensorList, ListsParametersAndBuffersWithTiedOnesOnce) {
  Tied net;

  const TensorList out = list(named(net));

  ASSERT_EQ(out.tensors.size(), 8u);  // embed, body x 2, norm x 2; mean, var, count
  EXPECT_EQ(out.tensors[0].info.name, "embed");
  EXPECT_EQ(out.tensors[0].info.aliases, std::vector<std::string>{"head"});
  EXPECT_FALSE(out.tensors[0].info.buffer);
  EXPECT_EQ(out.tensors[0].info.shape, (std::vector<std::int64_t>{5, 3}));
  EXPECT_TRUE(read(out.tensors[0]).equal(net->embed));
  const auto& count = out.tensors[7].info;
  EXPECT_EQ(count.name, "norm.num_batches_tracked");
  EXPECT_EQ(count.dtype, DType::kI64);
  EXPECT_TRUE(count.shape.empty());
  EXPECT_TRUE(count.buffer);
}

TEST(TensorList, TellsViewsThatDifferFromTiedTensors) {
  const auto base = torch::arange(12.0).reshape({3, 4});

  const TensorList out = list({{"base", base},
                               {"transposed", base.t()},
                               {"flat", base.view({12})},
                               {"tail", base.slice(0, 1)},
                               {"again", base.detach()},
                               {"bits", base.view(torch::kLong)}});

  ASSERT_EQ(out.tensors.size(), 5u);
  EXPECT_EQ(out.tensors[0].info.aliases, std::vector<std::string>{"again"});
  EXPECT_EQ(out.tensors[1].strides, (std::vector<std::int64_t>{1, 4}));
  EXPECT_TRUE(read(out.tensors[1]).equal(base.t()));
  EXPECT_TRUE(read(out.tensors[3]).equal(base.slice(0, 1)));
  EXPECT_EQ(out.tensors[4].info.dtype, DType::kI64);
}

TEST(TensorList, CarriesStridedExpandedAndEmptyTensors) {
  const auto base = torch::randn({4, 6});

  const TensorList out = list({{"columns", base.slice(1, 0, 6, 2)},
                               {"expanded", base.slice(0, 0, 1).expand({3, 6})},
                               {"empty", torch::empty({0, 3})},
                               {"scalar", torch::tensor(2.5)}});

  EXPECT_TRUE(read(out.tensors[0]).equal(base.slice(1, 0, 6, 2)));
  EXPECT_TRUE(read(out.tensors[1]).equal(base.slice(0, 0, 1).expand({3, 6})));
  EXPECT_EQ(out.tensors[2].info.elements(), 0);
  EXPECT_TRUE(out.tensors[3].info.shape.empty());
}

TEST(TensorList, KnowsEveryDTypeItCarries) {
  const std::vector<std::pair<torch::ScalarType, DType>> types{
      {torch::kDouble, DType::kF64}, {torch::kFloat, DType::kF32}, {torch::kHalf, DType::kF16},
      {torch::kBFloat16, DType::kBF16}, {torch::kLong, DType::kI64}, {torch::kInt, DType::kI32},
      {torch::kShort, DType::kI16}, {torch::kChar, DType::kI8}, {torch::kByte, DType::kU8},
      {torch::kBool, DType::kBool}};
  for (const auto& [torch_type, type] : types) {
    const auto tensor = torch::ones({3}, torch_type);

    const TensorList out = list({{"t", tensor}});

    EXPECT_EQ(out.tensors[0].info.dtype, type);
    EXPECT_EQ(weightcast::scalar_type_of(type), torch_type);
    EXPECT_EQ(out.tensors[0].info.bytes(), tensor.nbytes());
  }
}

TEST(TensorList, RefusesByNameWhatItCannotCarry) {
  const auto refused = [](const char* name, const torch::Tensor& tensor, const std::string& what) {
    const Status status = status_of({{"fine", torch::ones(2)}, {name, tensor}});
    EXPECT_EQ(status.code(), Code::kInvalid) << name;
    EXPECT_TRUE(says(status, std::string("'") + name + "'")) << status.to_string();
    EXPECT_TRUE(says(status, what)) << status.to_string();
    EXPECT_TRUE(says(status, "exclude")) << status.to_string();
  };
  refused("phase", torch::ones({2}, torch::kComplexFloat), "ComplexFloat");
  refused("sparse", torch::ones({2, 2}).to_sparse(), "to_dense");
  refused("quantized", torch::quantize_per_tensor(torch::ones({2}), 0.1, 0, torch::kQInt8), "QInt8");
  refused("elsewhere", torch::ones({2}, torch::kMeta), "on meta, expected cpu");
  refused("undefined", torch::Tensor(), "undefined");
  refused("float8", torch::ones({2}).to(torch::kFloat8_e4m3fn), "Float8_e4m3fn");
}

TEST(TensorList, RefusesOneNameForTwoTensors) {
  const auto one = torch::ones(2);

  const Status status = status_of({{"w", one}, {"w", torch::zeros(2)}});

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_TRUE(says(status, "'w'"));
  EXPECT_EQ(list({{"w", one}, {"w", one}}).tensors.size(), 1u);
}

TEST(TensorList, FiltersByName) {
  Tied net;
  const NameFilter filter{{"body.*", "norm.*"}, {"*.num_batches_tracked"}};

  const TensorList out = list(named(net), filter);

  EXPECT_EQ(out.tensors.size(), 6u);
  EXPECT_EQ(out.tensors[0].info.name, "body.weight");
  EXPECT_TRUE(filter.check(named(net)));
}

TEST(TensorList, TiedNamesOfWhichOneIsExcludedAreOneTensorWithoutAlias) {
  Tied net;

  const TensorList out = list(named(net), NameFilter{{}, {"embed"}});

  EXPECT_EQ(out.tensors[0].info.name, "head");
  EXPECT_TRUE(out.tensors[0].info.aliases.empty());
}

TEST(TensorList, SaysWhichPatternMatchesNothingAndThatNothingIsLeft) {
  Tied net;

  const Status slip = NameFilter{{"bdoy.*"}, {}}.check(named(net));
  const Status none = status_of(named(net), NameFilter{{}, {"*"}});

  EXPECT_TRUE(says(slip, "'bdoy.*'")) << slip.to_string();
  EXPECT_EQ(none.code(), Code::kInvalid);
  EXPECT_TRUE(says(none, "no tensors")) << none.to_string();
}

TEST(TensorList, SeesWritesToParametersButNotToBuffers) {
  torch::nn::BatchNorm1d net(3);
  const TensorList out = list(named(net));
  ASSERT_TRUE(out.unchanged());

  net->forward(torch::randn({4, 3}));
  EXPECT_TRUE(out.unchanged()) << "running statistics are copied within the publish point";

  torch::NoGradGuard no_grad;
  net->weight.add_(1);
  EXPECT_FALSE(out.unchanged());
}

TEST(TensorList, KeepsTheBytesWhenTheTrainerReplacesOrFreesTheStorage) {
  TensorList out;
  torch::Tensor before;
  {
    torch::nn::Linear net(3, 2);
    before = net->weight.detach().clone();
    out = list(named(net));
    net->to(torch::kDouble);
    net->weight.set_data(torch::zeros({7}));
  }

  EXPECT_TRUE(read(out.tensors[0]).equal(before));
  EXPECT_TRUE(out.unchanged());
}

TEST(TensorList, HoldsStoragesUntilTheCaptureLetsGo) {
  bool freed = false;
  float memory[2] = {1, 2};
  auto tensor = torch::from_blob(memory, {2}, [&](void*) { freed = true; });
  TensorList out = list({{"t", tensor}});

  tensor.reset();
  EXPECT_FALSE(freed);
  out.keep_alive.reset();
  out.unchanged = {};
  EXPECT_TRUE(freed);
}

TEST(TensorList, CarriesInferenceTensorsWhichHaveNoVersion) {
  torch::Tensor tensor;
  {
    const c10::InferenceMode mode;
    tensor = torch::ones({3});
  }

  const TensorList out = list({{"t", tensor, false}});

  EXPECT_TRUE(out.unchanged());
  EXPECT_TRUE(read(out.tensors[0]).equal(torch::ones({3})));
}

TEST(TensorSource, TakesModulesHoldersPointersAndSubmodules) {
  Tied net;
  TiedImpl value;
  const std::vector<std::string> all = names(named(net));

  EXPECT_EQ(all.size(), 9u);
  EXPECT_EQ(names(named(net.ptr())), all);
  EXPECT_EQ(names(named(std::shared_ptr<torch::nn::Module>(net.ptr()))), all);
  EXPECT_EQ(names(named(*net)), all);
  EXPECT_EQ(names(named(value)), all);
  EXPECT_EQ(names(named(net->body)), (std::vector<std::string>{"weight", "bias"}));
  EXPECT_EQ(named(torch::nn::Sequential(torch::nn::Linear(2, 2))).size(), 2u);
}

TEST(TensorSource, KeepsAModuleAliveWhereASharedPointerOwnsIt) {
  weightcast::NamedTensorLister lister;
  {
    Tied net;
    lister = weightcast::make_lister(*net);
  }
  std::vector<NamedTensor> out;

  lister(out);

  EXPECT_EQ(out.size(), 9u);
}

TEST(TensorSource, RefusesEmptyPointers) {
  EXPECT_THROW((void)weightcast::make_lister(Tied(nullptr)), weightcast::Error);
  EXPECT_THROW((void)weightcast::make_lister(std::shared_ptr<torch::nn::Module>()), weightcast::Error);
}

TEST(TensorSource, TakesJitModules) {
  torch::jit::Module net("Net");
  net.register_parameter("weight", torch::randn({2, 2}), false);
  net.register_buffer("mean", torch::zeros({2}));

  const auto out = named(net);

  ASSERT_EQ(names(out), (std::vector<std::string>{"weight", "mean"}));
  EXPECT_EQ(out[0].buffer, false);
  EXPECT_EQ(out[1].buffer, true);
}

struct Wrapper {
  std::map<std::string, torch::Tensor> weights{{"a", torch::ones(2)}, {"b", torch::zeros(3)}};
  const auto& named_parameters() { return weights; }
};

TEST(TensorSource, TakesWhateverNamesItsParametersAndCallables) {
  Wrapper wrapper;
  const auto trained = torch::ones(2).requires_grad_();

  EXPECT_EQ(names(named(wrapper)), (std::vector<std::string>{"a", "b"}));
  const auto called = named([&] {
    return std::vector<NamedTensor>{{"x", trained}, {"y", torch::ones(1)}, {"z", torch::ones(1), false}};
  });
  const TensorList out = list(called);
  EXPECT_FALSE(out.tensors[0].info.buffer);
  EXPECT_TRUE(out.tensors[1].info.buffer) << "what needs no grad may be written to at any time";
  EXPECT_FALSE(out.tensors[2].info.buffer);
  EXPECT_EQ(names(named([&] { return std::vector<std::pair<std::string, torch::Tensor>>{{"p", trained}}; })),
            std::vector<std::string>{"p"});
}

TEST(TensorSource, ExtraTensorsAreBuffersAndMayBeAListOrACallable) {
  const auto mean = torch::zeros(2).requires_grad_();
  std::vector<NamedTensor> out;
  int calls = 0;

  ExtraTensors{{"obs.mean", mean}, {"obs.var", torch::ones(2)}}.append(out);
  const ExtraTensors callable([&] {
    ++calls;
    return std::vector<NamedTensor>{{"obs.count", torch::tensor(3)}};
  });
  callable.append(out);
  callable.append(out);
  ExtraTensors().append(out);

  EXPECT_EQ(names(out), (std::vector<std::string>{"obs.mean", "obs.var", "obs.count", "obs.count"}));
  EXPECT_EQ(out[0].buffer, true);
  EXPECT_EQ(calls, 2);
}

}  // namespace
