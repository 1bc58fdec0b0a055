// Publishes a torch tensor through the plugin and takes it in as plain memory, in one process.
#include <cstdio>

#include <ATen/ops/full.h>

#include <weightcast/subscriber.hpp>
#include <weightcast/torch.hpp>

int main() try {
  using namespace std::chrono_literals;
  const at::Tensor weights = at::full({8, 16}, 0.25);
  weightcast::AttachOptions options;
  options.publisher.min_receivers = 1;
  auto publication = weightcast::attach(
      [&] { return std::vector<weightcast::NamedTensor>{{"weights", weights}}; }, options);
  auto subscriber = weightcast::Subscriber::open(
      weightcast::configure(weightcast::SubscriberOptions{}, {}).value_or_throw()).value_or_throw();

  publication.publish();
  (void)publication.flush(30s).value_or_throw();
  const auto lease = subscriber.acquire(weightcast::Clock::now() + 30s).value_or_throw();
  const auto* placed = lease.image().find("weights");
  std::printf("version %llu, weights[7][15] = %g\n",
              static_cast<unsigned long long>(lease.version().number),
              static_cast<double>(static_cast<const float*>(placed->data)[8 * 16 - 1]));
} catch (const weightcast::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
