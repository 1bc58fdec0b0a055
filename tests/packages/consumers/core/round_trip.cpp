// Publishes one version of a policy in plain memory and takes it in again, in one process.
#include <cstdio>
#include <memory>
#include <vector>

#include <weightcast/config.hpp>
#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>
#include <weightcast/version.hpp>

int main() try {
  using namespace std::chrono_literals;
  const auto weights = std::make_shared<std::vector<float>>(1000, 0.5F);
  const auto list = [weights](weightcast::TensorList& tensors) {
    tensors.tensors.push_back({{"weights", {}, weightcast::DType::kF32, {1000}}, weights->data(), {}});
    tensors.keep_alive = weights;
    return weightcast::Status::ok();
  };

  // The trainer. Options come from the environment: WEIGHTCAST_JOB, ...
  weightcast::PublisherOptions trainer;
  trainer.min_receivers = 1;
  auto publisher = weightcast::Publisher::open(
      weightcast::configure(trainer, {}).value_or_throw(), list).value_or_throw();
  // The worker.
  auto subscriber = weightcast::Subscriber::open(
      weightcast::configure(weightcast::SubscriberOptions{}, {}).value_or_throw()).value_or_throw();

  publisher.publish(list);
  const auto verdict = publisher.flush(weightcast::Clock::now() + 30s, list).value_or_throw();
  const auto lease = subscriber.acquire(weightcast::Clock::now() + 30s).value_or_throw();
  const auto* placed = lease.image().find("weights");
  std::printf("weightcast %s: version %llu is applied by %zu, weights[999] = %g\n",
              weightcast::library_version(),
              static_cast<unsigned long long>(lease.version().number), verdict.applied.size(),
              static_cast<double>(static_cast<const float*>(placed->data)[999]));
} catch (const weightcast::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
