// An engine of the benchmarks, without torch: takes versions in until its standard input ends, and
// prints a JSON line for each, and one for each line "status" that it reads. Driven by
// scripts/lib/bench_network.py.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include <weightcast/config.hpp>
#include <weightcast/subscriber.hpp>

#include "core_support.hpp"

namespace {

using namespace bench;
using weightcast::Activation;
using weightcast::TransportChoice;

const std::map<std::string, Activation> kActivations{{"auto", Activation::kAuto},
                                                     {"view", Activation::kView},
                                                     {"flip", Activation::kFlip},
                                                     {"staged", Activation::kStaged},
                                                     {"serial", Activation::kSerial}};
const std::map<std::string, TransportChoice> kTransports{{"auto", TransportChoice::kAuto},
                                                         {"shm", TransportChoice::kShm},
                                                         {"tcp", TransportChoice::kTcp}};

const std::string& name_of(Activation activation) {
  for (const auto& [name, value] : kActivations) {
    if (value == activation) return name;
  }
  return kActivations.begin()->first;
}

json describe(const weightcast::SubscriberStatus& status) {
  return {{"serving", status.serving.number},
          {"published", status.published.number},
          {"attached", status.attached},
          {"activation", name_of(status.activation)},
          {"activation_reason", status.activation_reason},
          {"transport", status.transport},
          {"applied", status.applied},
          {"failed", status.failed},
          {"last_failure", status.last_failure},
          {"rejoined", status.rejoined},
          {"dirty", status.dirty},
          {"resent", status.resent_buckets},
          {"corrupt", status.corrupt_buckets},
          {"relayed_bytes", status.relayed_bytes},
          {"stage_s", std::chrono::duration<double>(status.last_stage).count()}};
}

int follow(const weightcast::SubscriberOptions& base) {
  Memory memory;
  auto options = weightcast::configure(base, {});
  auto subscriber = options ? weightcast::Subscriber::open(*options)
                            : weightcast::Result<weightcast::Subscriber>(options.status());
  if (!subscriber) {
    emit({{"kind", "refused"}, {"why", subscriber.status().to_string()}});
    return 3;
  }
  emit({{"kind", "started"}, {"at_ns", now_ns()}, {"memory", memory.report()}});
  const auto token = subscriber->after_apply([](const weightcast::Version& version) {
    emit({{"kind", "version"}, {"number", version.number}, {"at_ns", now_ns()}});
  });
  Commands commands;
  for (;;) {
    const auto line = commands.next(std::chrono::seconds(1));
    if (line == "leave") return 0;
    if (line == "status") {
      emit({{"kind", "status"},
            {"status", describe(subscriber->status())},
            {"memory", memory.report()}});
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string activation = "auto";
  std::string transport = "auto";
  weightcast::SubscriberOptions options;
  options.policy = "bench";
  CLI::App app("An engine of the benchmarks, without torch");
  app.add_option("--activation", activation)->check(CLI::IsMember(kActivations));
  app.add_option("--transport", transport)->check(CLI::IsMember(kTransports));
  app.add_option("--name", options.name);
  CLI11_PARSE(app, argc, argv);
  options.activation = kActivations.at(activation);
  options.transport = kTransports.at(transport);
  try {
    return follow(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "core_engine: %s\n", error.what());
    return 1;
  }
}
