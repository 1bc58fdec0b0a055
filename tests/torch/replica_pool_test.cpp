#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/jit.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <weightcast/torch/replica_pool.hpp>

#include "torch/heap_image.hpp"

namespace {

using weightcast::Code;
using weightcast::NamedTensor;
using weightcast::Status;
using weightcast::detail::ReplicaPool;
using weightcast_test::HeapImage;

struct NetImpl : torch::nn::Module {
  explicit NetImpl(bool tied = true) {
    embed = register_parameter("embed", torch::randn({4, 3}));
    head = register_parameter("head", tied ? embed : torch::randn({4, 3}));
    body = register_module("body", torch::nn::Linear(3, 3));
    norm = register_module("norm", torch::nn::BatchNorm1d(3));
    steps = register_buffer("steps", torch::zeros({}, torch::kLong));
  }
  torch::Tensor embed, head, steps;
  torch::nn::Linear body{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Net);

std::vector<NamedTensor> named(const torch::nn::Module& module) {
  std::vector<NamedTensor> out;
  weightcast::make_lister(module)(out);
  return out;
}

void set(std::vector<NamedTensor>& tensors, const std::string& name, const torch::Tensor& tensor) {
  for (auto& t : tensors) {
    if (t.name == name) t.tensor = tensor;
  }
}

void expect_equal(const torch::nn::Module& got, const torch::nn::Module& want) {
  const auto a = named(got);
  const auto b = named(want);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].tensor.equal(b[i].tensor)) << a[i].name;
}

bool has(const Status& status, const std::string& part) {
  return status.message().find(part) != std::string::npos;
}

// The lines that weightcast logs while it lives.
struct Lines {
  Lines() {
    weightcast::set_log_sink([this](weightcast::LogLevel, std::string_view line) { lines.emplace_back(line); });
  }
  ~Lines() { weightcast::set_log_sink({}); }
  std::vector<std::string> lines;
};

// Two replicas, and what the Subscriber does with them.
struct ReplicaPoolTest : testing::Test {
  ReplicaPoolTest() {
    pool.add(weightcast::make_lister(nets[0].ptr()));
    pool.add(weightcast::make_lister(nets[1].ptr()));
  }
  static std::shared_ptr<HeapImage> image_of(const torch::nn::Module& module, std::uint64_t number) {
    return std::make_shared<HeapImage>(number, named(module));
  }
  Status begin(const std::shared_ptr<HeapImage>& image) { return pool.begin(image->version(), image->infos()); }
  void stage(const std::shared_ptr<HeapImage>& image) {
    ASSERT_TRUE(pool.can_begin());
    const Status begun = begin(image);
    ASSERT_TRUE(begun) << begun.to_string();
    const Status placed = pool.place(image);
    ASSERT_TRUE(placed) << placed.to_string();
  }
  void apply(const std::shared_ptr<HeapImage>& image) {
    stage(image);
    pool.commit(image->version());
  }

  Net nets[2];
  ReplicaPool pool{"actor", {}};
  Net trainer;
};

TEST_F(ReplicaPoolTest, InstallsAVersionInPlaceSoThatAliasesFollow) {
  const torch::Tensor held = nets[0]->embed;  // a handle taken before
  const auto image = image_of(*trainer, 1);

  apply(image);
  const auto index = pool.lease(*image);

  ASSERT_EQ(index, 0u);
  expect_equal(*nets[0], *trainer);
  EXPECT_TRUE(held.equal(trainer->embed));
  EXPECT_EQ(held.data_ptr(), image->find("embed")->data) << "nothing is copied";
  EXPECT_TRUE(nets[0]->head.is_alias_of(nets[0]->embed));
  EXPECT_TRUE(nets[0]->embed.requires_grad());
  EXPECT_TRUE(nets[0]->embed.is_leaf());
  EXPECT_FALSE(nets[0]->steps.requires_grad());
  EXPECT_NO_THROW(nets[0]->norm->eval());
  EXPECT_TRUE(nets[0]->norm(nets[0]->body(torch::ones({2, 3}))).defined());
}

TEST_F(ReplicaPoolTest, ServesTheOldVersionUnchangedWhileTheNextIsPlaced) {
  const Net before;
  const auto first = image_of(*before, 1);
  apply(first);
  ASSERT_EQ(pool.lease(*first), 0u);

  stage(image_of(*trainer, 2));

  expect_equal(*nets[0], *before);
  expect_equal(*nets[1], *trainer);
}

TEST_F(ReplicaPoolTest, KeepsALeasedReplicaThroughTheSwitchAndLetsTheNextWait) {
  const Net before;
  const auto first = image_of(*before, 1);
  const auto second = image_of(*trainer, 2);
  apply(first);
  const auto lease = pool.lease(*first);
  apply(second);

  expect_equal(*nets[*lease], *before);
  EXPECT_FALSE(pool.can_begin());
  EXPECT_EQ(begin(image_of(*trainer, 3)).code(), Code::kUnavailable);

  pool.release(*lease);
  EXPECT_TRUE(pool.can_begin());
}

TEST_F(ReplicaPoolTest, RefusesToLeaseAnImageWhoseReplicaWasTakenBack) {
  const auto first = image_of(*Net(), 1);
  const auto second = image_of(*trainer, 2);
  apply(first);
  apply(second);
  EXPECT_EQ(pool.lease(*first), 0u) << "until somebody has leased the newer one, the former is still given out";
  pool.release(0);

  ASSERT_EQ(pool.lease(*second), 1u);

  EXPECT_FALSE(pool.lease(*first).has_value());
}

TEST_F(ReplicaPoolTest, LetsGoOfAnImageAsSoonAsTheNewerOneIsLeased) {
  auto first = image_of(*Net(), 1);
  const std::weak_ptr<HeapImage> watch = first;
  const auto second = image_of(*trainer, 2);
  apply(first);
  ASSERT_TRUE(pool.lease(*first).has_value());
  first.reset();
  apply(second);
  ASSERT_EQ(pool.lease(*second), 1u);
  EXPECT_FALSE(watch.expired()) << "a lease is held";

  pool.release(0);

  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(nets[0]->embed.numel(), 0) << "a replica outside of leases has no version";
  EXPECT_EQ(nets[0]->embed.scalar_type(), torch::kFloat);
  apply(image_of(*trainer, 3));
  expect_equal(*nets[0], *trainer);
}

TEST_F(ReplicaPoolTest, RollbackFreesWhatWasPlacedAndLeavesWhatServes) {
  const Net before;
  const auto first = image_of(*before, 1);
  apply(first);
  auto second = image_of(*trainer, 2);
  const std::weak_ptr<HeapImage> watch = second;
  stage(second);

  pool.rollback(second->version());
  second.reset();

  EXPECT_TRUE(watch.expired());
  ASSERT_EQ(pool.lease(*first), 0u);
  expect_equal(*nets[0], *before);
  apply(image_of(*trainer, 3));
  expect_equal(*nets[1], *trainer);
}

TEST_F(ReplicaPoolTest, NamesATensorThatTheVersionLacksAndChangesNothing) {
  const auto weight = nets[0]->body->weight.detach().clone();
  auto tensors = named(*trainer);
  std::erase_if(tensors, [](const auto& t) { return t.name == "body.weight"; });

  const Status status = begin(std::make_shared<HeapImage>(7, tensors));

  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_TRUE(has(status, "'body.weight' (f32 [3, 3])")) << status.to_string();
  EXPECT_TRUE(has(status, ":7")) << status.to_string();
  EXPECT_TRUE(nets[0]->body->weight.equal(weight));
}

TEST_F(ReplicaPoolTest, NamesATensorOfAnotherShapeOrTypeAndBothSides) {
  auto reshaped = named(*trainer);
  set(reshaped, "embed", torch::randn({3, 4}));
  auto retyped = named(*trainer);
  set(retyped, "steps", torch::zeros({}, torch::kInt));

  const Status shape = begin(std::make_shared<HeapImage>(1, reshaped));
  const Status type = begin(std::make_shared<HeapImage>(1, retyped));

  EXPECT_EQ(shape.code(), Code::kMismatch);
  EXPECT_TRUE(has(shape, "'embed': expected f32 [4, 3]") && has(shape, "has f32 [3, 4]")) << shape.to_string();
  EXPECT_EQ(type.code(), Code::kMismatch);
  EXPECT_TRUE(has(type, "'steps': expected i64 []") && has(type, "has i32 []")) << type.to_string();
  EXPECT_TRUE(has(type, "AttachOptions::dtype")) << type.to_string();
}

TEST_F(ReplicaPoolTest, PlaceChecksAllTensorsBeforeItChangesAny) {
  const auto embed = nets[0]->embed.detach().clone();
  auto retyped = named(*trainer);
  set(retyped, "steps", torch::zeros({}, torch::kInt));
  ASSERT_TRUE(begin(image_of(*trainer, 1)));

  const Status status = pool.place(std::make_shared<HeapImage>(1, retyped));

  EXPECT_EQ(status.code(), Code::kMismatch);
  EXPECT_TRUE(nets[0]->embed.equal(embed));
}

TEST_F(ReplicaPoolTest, RefusesAVersionThatUntiesWhatTheReplicaTies) {
  const Status status = begin(image_of(*Net(false), 1));

  EXPECT_EQ(status.code(), Code::kMismatch);
  EXPECT_TRUE(has(status, "'embed' and 'head'")) << status.to_string();
}

TEST_F(ReplicaPoolTest, IgnoresTensorsBeyondTheReplicasAndShowsThemInTheLease) {
  auto tensors = named(*trainer);
  tensors.push_back({"obs.mean", torch::tensor({1.5, 2.5}), {}});
  const auto image = std::make_shared<HeapImage>(1, tensors);

  apply(image);
  const auto index = pool.lease(*image);

  EXPECT_TRUE(pool.tensor(*index, "obs.mean").equal(torch::tensor({1.5, 2.5})));
  EXPECT_FALSE(pool.tensor(*index, "obs.var").defined());
}

TEST_F(ReplicaPoolTest, ATensorThatOutlivesItsLeaseKeepsItsBytesAndIsLoggedOnce) {
  const Lines log;
  const Net before;
  auto first = image_of(*before, 41);
  const std::weak_ptr<HeapImage> watch = first;
  apply(first);
  auto index = pool.lease(*first);
  auto weight = nets[*index]->body->weight.detach();
  auto bias = nets[*index]->body->bias.detach();
  pool.release(*index);
  first.reset();

  const auto second = image_of(*trainer, 42);
  apply(second);
  index = pool.lease(*second);
  EXPECT_TRUE(pool.can_begin());
  EXPECT_TRUE(pool.can_begin());

  EXPECT_TRUE(weight.equal(before->body->weight));
  EXPECT_FALSE(watch.expired());
  ASSERT_EQ(log.lines.size(), 1u);
  EXPECT_NE(log.lines[0].find("event=tensors_outlive_lease policy=actor"), std::string::npos) << log.lines[0];
  EXPECT_NE(log.lines[0].find(":41 tensors=2"), std::string::npos) << log.lines[0];
  weight = bias = torch::Tensor();
  EXPECT_TRUE(watch.expired());
}

TEST_F(ReplicaPoolTest, TakesManyVersionsInTurn) {
  for (std::uint64_t number = 1; number <= 20; ++number) {
    const Net now;
    const auto image = image_of(*now, number);
    apply(image);
    const auto index = pool.lease(*image);
    ASSERT_TRUE(index.has_value());
    expect_equal(*nets[*index], *now);
    pool.release(*index);
  }
}

// As with the activations in place: one memory, of which a former image is let go before the next.
TEST_F(ReplicaPoolTest, SuspendLetsGoOfTheServedImageAndTheNextIsPlacedWithoutALease) {
  const Net next;
  auto first = image_of(*trainer, 1);
  apply(first);
  ASSERT_TRUE(pool.can_begin()) << "though one of two serves";
  const auto second = image_of(*next, 2);
  ASSERT_TRUE(begin(second));
  const auto leased = pool.lease(*first);
  ASSERT_TRUE(leased.has_value());
  pool.release(*leased);

  pool.suspend(first->version());

  EXPECT_FALSE(pool.lease(*first).has_value());
  const std::weak_ptr<HeapImage> watched = first;
  first->attachment.reset();
  first.reset();
  EXPECT_TRUE(watched.expired()) << "something still shows its bytes";
  ASSERT_TRUE(pool.place(second));
  pool.commit(second->version());
  const auto index = pool.lease(*second);
  ASSERT_TRUE(index.has_value());
  expect_equal(*nets[*index], *next);
  pool.release(*index);
}

TEST_F(ReplicaPoolTest, ASuspendedImageCanBePutBack) {
  const auto image = image_of(*trainer, 1);
  apply(image);
  ASSERT_TRUE(begin(image_of(*trainer, 2)));
  pool.suspend(image->version());
  pool.rollback({image->version().run, 2});

  ASSERT_TRUE(begin(image));
  ASSERT_TRUE(pool.place(image));
  pool.commit(image->version());

  const auto index = pool.lease(*image);
  ASSERT_TRUE(index.has_value());
  expect_equal(*nets[*index], *trainer);
  pool.release(*index);
  EXPECT_TRUE(pool.can_begin());
}

// Workers lease while versions come in as fast as replicas get free: whatever is leased is one version.
TEST(ReplicaPool, NeverLeasesAMixWhileVersionsRace) {
  constexpr std::uint64_t kVersions = 150;
  const auto make = [] {
    auto net = std::make_shared<torch::jit::Module>("Net");
    for (const char* name : {"a", "b", "c"}) net->register_parameter(name, torch::zeros({4}), false);
    return net;
  };
  const std::vector<std::shared_ptr<torch::jit::Module>> nets{make(), make()};
  ReplicaPool pool("p", {});
  for (const auto& net : nets) pool.add(weightcast::make_lister(net));
  std::mutex mutex;
  std::shared_ptr<HeapImage> serving;  // what Subscriber::acquire gives
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> mixes{0};

  const auto work = [&] {
    while (!done.load()) {
      std::shared_ptr<HeapImage> image;
      {
        const std::lock_guard lock(mutex);
        image = serving;
      }
      if (!image) continue;
      const auto index = pool.lease(*image);
      if (!index) continue;
      for (int look = 0; look < 3; ++look) {
        for (const auto& p : nets[*index]->named_parameters()) {
          const float* data = p.value.data_ptr<float>();
          if (p.value.numel() != 4 || data[0] != static_cast<float>(image->version().number)) ++mixes;
        }
      }
      pool.release(*index);
      std::this_thread::yield();
    }
  };
  std::thread workers[2] = {std::thread(work), std::thread(work)};
  std::uint64_t applied = 0;
  for (std::uint64_t number = 1; applied < kVersions; ++number) {
    if (!pool.can_begin()) {
      std::this_thread::yield();
      continue;
    }
    const auto values = torch::full({4}, static_cast<double>(number));
    const auto image = std::make_shared<HeapImage>(
        number, std::vector<NamedTensor>{{"a", values, {}}, {"b", values.clone(), {}}, {"c", values.clone(), {}}});
    if (!pool.begin(image->version(), image->infos()) || !pool.place(image)) break;
    if (number % 7 == 0) {
      pool.rollback(image->version());
      continue;
    }
    pool.commit(image->version());
    const std::lock_guard lock(mutex);
    serving = image;
    ++applied;
  }
  done = true;
  for (auto& worker : workers) worker.join();

  EXPECT_EQ(applied, kVersions);
  EXPECT_EQ(mixes.load(), 0u);
}

TEST(ReplicaPool, LeavesExcludedTensorsAsTheyAre) {
  ReplicaPool pool("p", {{}, {"steps"}});
  Net a, b, trainer;
  a->steps.fill_(5);
  trainer->steps.fill_(9);
  pool.add(weightcast::make_lister(a));
  pool.add(weightcast::make_lister(b));
  const auto image = std::make_shared<HeapImage>(1, named(*trainer));

  ASSERT_TRUE(pool.begin(image->version(), image->infos()));
  ASSERT_TRUE(pool.place(image));

  EXPECT_EQ(a->steps.item<std::int64_t>(), 5);
  EXPECT_TRUE(a->embed.equal(trainer->embed));
}

TEST(ReplicaPool, PlacesIntoInferenceTensorsAndJitModules) {
  const auto make = [](bool inference) {
    const c10::InferenceMode mode(inference);
    auto module = std::make_shared<torch::jit::Module>("Net");
    module->register_parameter("weight", torch::randn({2, 2}), false);
    module->register_buffer("mean", torch::zeros({2}));
    module->define("def forward(self, x):\n    return x @ self.weight + self.mean\n");
    return module;
  };
  const auto jit = make(false), inference = make(true), trainer = make(false);
  ReplicaPool pool("p", {});
  pool.add(weightcast::make_lister(inference));
  pool.add(weightcast::make_lister(jit));
  std::vector<NamedTensor> tensors;
  weightcast::make_lister(trainer)(tensors);
  const auto x = torch::randn({3, 2});
  const auto want = trainer->forward({x}).toTensor();

  for (std::uint64_t number = 1; number <= 4; ++number) {
    const auto image = std::make_shared<HeapImage>(number, tensors);
    ASSERT_TRUE(pool.begin(image->version(), image->infos()));
    ASSERT_TRUE(pool.place(image));
    pool.commit(image->version());
    const auto index = pool.lease(*image);
    ASSERT_TRUE(index.has_value());
    EXPECT_TRUE((*index == 0 ? inference : jit)->forward({x}).toTensor().equal(want));
    pool.release(*index);
  }

  EXPECT_TRUE(inference->attr("weight").toTensor().is_inference());
  EXPECT_FALSE(jit->attr("weight").toTensor().is_inference());
}

TEST(ReplicaPool, RefusesReplicasThatShareMemoryOrHaveNoTensors) {
  ReplicaPool pool("p", {});
  Net one;
  pool.add(weightcast::make_lister(one));

  const auto message_of = [&](weightcast::NamedTensorLister lister) -> std::string {
    try {
      pool.add(std::move(lister));
    } catch (const weightcast::Error& e) {
      return e.what();
    }
    return "";
  };

  EXPECT_NE(message_of(weightcast::make_lister(one)).find("'embed'"), std::string::npos);
  EXPECT_NE(message_of(weightcast::make_lister(std::make_shared<torch::nn::Module>())).find("no tensors"),
            std::string::npos);
}

}  // namespace
