// Messages with random but valid contents, for tests of the wire.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "protocol/message.hpp"
#include "protocol/report.hpp"

namespace weightcast::protocol {

class RandomMessage {
 public:
  explicit RandomMessage(std::uint64_t seed) : engine_(seed) {}

  std::mt19937_64& engine() noexcept { return engine_; }

  /// One with the body of that index in Body.
  Message of_kind(std::size_t index) {
    Message message;
    message.run = run();
    message.member = {.role = flip() ? Role::kSource : Role::kReceiver, .name = name(),
                      .incarnation = u64()};
    message.body = body(index, message.member.role);
    return message;
  }

  std::uint64_t below(std::uint64_t n) { return engine_() % n; }

 private:
  bool flip() { return (engine_() & 1) != 0; }
  /// Small, large and extreme numbers alike.
  std::uint64_t u64() {
    switch (below(4)) {
      case 0: return 0;
      case 1: return below(1000);
      case 2: return ~std::uint64_t{0};
      default: return engine_();
    }
  }
  std::uint32_t u32() { return static_cast<std::uint32_t>(u64()); }
  std::int64_t i64() { return static_cast<std::int64_t>(u64()); }
  Run run() { return {.started_us = u64(), .tie = u32()}; }
  Version version() { return {.run = run(), .number = u64()}; }
  base::Digest digest() { return {.a = u64(), .b = u64()}; }

  std::string from(std::string_view alphabet, std::size_t least, std::size_t most) {
    std::string out(least + below(most - least + 1), '\0');
    for (char& c : out) c = alphabet[below(alphabet.size())];
    return out;
  }
  std::string name() { return from("abcXYZ019._:@-", 1, 128); }
  std::string text() { return from("abc XYZ.,'\"\\\xc3\xa9", 0, 4096); }

  std::string reason() { return from("abc XYZ.,'\"\\\xc3\xa9", 0, 512); }
  std::int64_t time() { return static_cast<std::int64_t>(u64() >> 1); }

  std::optional<SourceReport> source_report() {
    if (flip()) return std::nullopt;
    return SourceReport{.blocked = reason(), .staging = reason(), .transport = reason(),
                        .transport_reason = reason(), .slots = u32(), .slot_bytes = u64(),
                        .captured = u64(), .coalesced = u64(), .voided = u64(),
                        .sent_bytes = u64(), .last_capture_ns = time(), .last_hook_ns = time(),
                        .last_fence_ns = time()};
  }

  std::optional<ReceiverReport> receiver_report() {
    if (flip()) return std::nullopt;
    return ReceiverReport{.activation = reason(), .activation_reason = reason(),
                          .transport = reason(), .transport_reason = reason(),
                          .received_bytes = u64(), .leases = u32()};
  }

  JobStatus job_status() {
    JobStatus out{.job = name(), .policy = name(), .run = run(),
                  .mode = flip() ? Mode::kP2p : Mode::kBroadcast,
                  .listening = from("tcp:/.0", 0, 300), .world_size = u32(),
                  .min_receivers = u32(), .published = u64(), .committed = u64(), .round = {},
                  .waiting_for = reason(), .commits = u64(), .rounds_aborted = u64(),
                  .engines_evicted = u64(), .points_void = u64(), .refused = u64(),
                  .last_applied = u64(), .last_apply = Duration(time()), .trainers = {},
                  .engines = {}, .left_out = u32(), .gone = {}};
    if (flip()) out.round = {u64(), flip(), Duration(time()), u32(), u32()};
    for (std::uint64_t i = below(4); i > 0; --i) {
      JobStatus::Trainer& trainer = out.trainers.emplace_back();
      trainer.rank = static_cast<std::uint32_t>(below(65536));
      trainer.host = from("abc-0", 0, 300);
      trainer.pid = u64();
      trainer.silence = Duration(time());
      trainer.next_point = u64();
      if (const auto report = source_report()) fill(trainer, *report);
    }
    for (std::uint64_t i = below(4); i > 0; --i) {
      JobStatus::Engine& engine = out.engines.emplace_back();
      engine.name = name();
      engine.host = from("abc-0", 0, 300);
      engine.pid = u64();
      engine.state = static_cast<EngineState>(1 + below(7));
      engine.silence = Duration(time());
      engine.serving = version();
      engine.staleness = u64();
      engine.bringing = u64();
      engine.progress = u64();
      if (const auto report = receiver_report()) fill(engine, *report);
      engine.last_stage = Duration(time());
      engine.last_switch = Duration(time());
      engine.last_apply = Duration(time());
      engine.trouble = reason();
    }
    for (std::uint64_t i = below(17); i > 0; --i) {
      out.gone.push_back({name(), reason(), Duration(time())});
    }
    return out;
  }

  plan::Share share(std::uint32_t rank) {
    plan::Share out;
    out.rank = rank;
    out.object = name();
    out.generation = u64();
    out.host = from("abc-0", 0, 300);
    out.endpoint = from("tcp:/.0", 0, 300);
    if (below(2) == 0) {
      out.device = "GPU-" + from("0123456789abcdef-", 1, 40);
      out.device_memory = from(std::string_view("\0\x01\xff", 3), 64, 64);
      out.device_offset = u64();
    }
    if (below(2) == 0) out.nccl_device = "GPU-" + from("0123456789abcdef-@", 1, 80);
    const std::uint64_t count = below(6);
    for (std::uint64_t i = 0; i < count; ++i) {
      plan::ShareEntry entry;
      const std::string unique = std::to_string(rank) + "." + std::to_string(i);
      entry.info.name = unique + "." + from("weight\n\xff", 0, 1000);
      for (std::uint64_t a = below(3); a > 0; --a) {
        entry.info.aliases.push_back(unique + "=" + std::to_string(a));
      }
      entry.info.dtype = static_cast<DType>(1 + below(10));
      for (std::uint64_t d = below(5); d > 0; --d) {
        entry.info.shape.push_back(static_cast<std::int64_t>(below(70)));
      }
      entry.info.buffer = flip();
      add(out, std::move(entry));
    }
    return out;
  }

  void add(plan::Share& share, plan::ShareEntry entry) {
    entry.digest = digest();
    entry.offset = (share.payload_bytes + plan::kAlignment - 1) / plan::kAlignment * plan::kAlignment;
    share.payload_bytes = entry.offset + entry.info.bytes();
    share.entries.push_back(std::move(entry));
  }

  /// Adds a tensor that is cut along one of its dimensions, a part of it to each share; some parts
  /// are empty, and in some tensors all shares have all of it.
  void add_sharded(std::vector<plan::Share>& shares, std::size_t number) {
    TensorInfo whole;
    whole.name = "sharded." + std::to_string(number);
    whole.dtype = static_cast<DType>(1 + below(10));
    whole.buffer = flip();
    if (flip()) whole.aliases = {whole.name + ".alias"};
    for (std::uint64_t d = 1 + below(4); d > 0; --d) {
      whole.global_shape.push_back(static_cast<std::int64_t>(below(40)));
    }
    whole.shape = whole.global_shape;
    whole.origin.assign(whole.shape.size(), 0);
    const std::size_t d = below(whole.shape.size());
    const bool replicated = below(4) == 0;
    std::int64_t begin = 0;
    for (plan::Share& share : shares) {
      TensorInfo box = whole;
      if (!replicated) {
        const std::int64_t left = whole.shape[d] - begin;
        box.origin[d] = begin;
        box.shape[d] = &share == &shares.back()
                           ? left
                           : static_cast<std::int64_t>(below(static_cast<std::uint64_t>(left) + 1));
        begin += box.shape[d];
      }
      add(share, {.info = std::move(box), .offset = 0, .digest = {}});
    }
  }

  Body body(std::size_t index, Role& role) {
    constexpr Role kSource = Role::kSource;
    constexpr Role kReceiver = Role::kReceiver;
    switch (index) {
      case 0: {
        const std::uint32_t world = 1 + static_cast<std::uint32_t>(below(65536));
        return Hello{.rank = static_cast<std::uint32_t>(below(world)), .world_size = world,
                     .launch = from("abc /0", 0, 1024), .policy = name(), .highest_run = run(),
                     .serving = version(), .next_point = u64(), .in_place = flip(),
                     .over_network = flip(),
                     .clock = from("abc-0", 0, 300), .relay_endpoint = from("tcp:/.0", 0, 300),
                     .host = from("abc-0", 0, 300), .pid = u64()};
      }
      case 1:
        role = kSource;
        return SourceState{.sequence = u64(), .next_point = u64(), .waiting = flip(), .ready = flip(),
                           .grant_ordinal = u64(), .grant_void = flip(), .void_reason = text(),
                           .report = source_report()};
      case 2: {
        role = kSource;
        Sealed out{.grant_ordinal = u64(), .point = u64(), .layout_fingerprint = u64(),
                   .share = share(u32()), .has_policy_digest = flip(), .policy_digest = {},
                   .captured_at_ns = i64()};
        std::vector<plan::Share> parts(3);
        for (std::uint64_t i = below(4); i > 0; --i) add_sharded(parts, i);
        for (plan::ShareEntry& entry : parts[below(3)].entries) add(out.share, std::move(entry));
        if (out.has_policy_digest) out.policy_digest = digest();
        return out;
      }
      case 3:
        role = kReceiver;
        return ReceiverState{.sequence = u64(), .attempt = u64(),
                             .phase = static_cast<Phase>(below(5)), .failure = text(),
                             .serving = version(), .lagging = flip(), .applied_at_ns = i64(),
                             .dirty = flip(), .progress = u64(),
                             .report = receiver_report()};
      case 4:
        role = kSource;
        return FlushRequest{.ordinal = u64(), .point = u64(), .grant_ordinal = u64()};
      case 5: return Bye{};
      case 6: return Welcome{.next_point = u64()};
      case 7:
        return Refused{.reason = static_cast<Refusal>(1 + below(7)), .message = text()};
      case 8: {
        role = kSource;
        SourceOrders out{.sequence = u64(), .grant_ordinal = u64(), .grant_point = u64(),
                         .grant_open = flip(), .compare = flip(), .sealed_ordinal = u64(),
                         .keep = {}, .published = u64(), .committed = u64()};
        for (std::uint64_t i = below(65); i > 0; --i) out.keep.push_back(u64());
        return out;
      }
      case 9: {
        role = kReceiver;
        Prepare out{.attempt = u64(), .number = u64(), .manifest = {},
                    .relay_name = flip() ? name() : "", .relay = from("tcp:/.0", 0, 300)};
        const auto ranks = static_cast<std::uint32_t>(1 + below(4));
        for (std::uint32_t r = 0; r < ranks; ++r) out.manifest.shares.push_back(share(r));
        for (std::uint64_t i = below(4); i > 0; --i) add_sharded(out.manifest.shares, i);
        return out;
      }
      case 10:
        role = kReceiver;
        return ReceiverOrders{.sequence = u64(), .attempt = u64(),
                              .order = static_cast<Order>(below(4)), .published = u64(),
                              .committed = u64()};
      case 12: {
        role = kSource;
        return Capturing{.grant_ordinal = u64(), .point = u64(), .share = share(u32())};
      }
      case 13: {
        role = kReceiver;
        Ahead out{.number = u64(), .manifest = {}};
        const auto ranks = static_cast<std::uint32_t>(1 + below(4));
        for (std::uint32_t r = 0; r < ranks; ++r) out.manifest.shares.push_back(share(r));
        return out;
      }
      case 14: return StatusRequest{.ordinal = u64()};
      case 15: return StatusAnswer{.ordinal = u64(), .status = job_status()};
      default: {
        role = kSource;
        Verdict out{.ordinal = u64(), .number = u64(), .applied = {}, .lost = {},
                    .min_receivers = u32()};
        for (std::uint64_t i = below(5); i > 0; --i) out.applied.push_back(name());
        for (std::uint64_t i = below(5); i > 0; --i) out.lost.push_back(name());
        return out;
      }
    }
  }

  std::mt19937_64 engine_;
};

}  // namespace weightcast::protocol
