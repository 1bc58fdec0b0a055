#include "protocol/wire.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <random>
#include <set>

#include "proto/weightcast.pb.h"
#include "unit/random_message.hpp"

namespace weightcast::protocol {
namespace {

constexpr std::size_t kKinds = std::variant_size_v<Body>;

std::span<const std::byte> view(const std::string& bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

Result<Message> decode_string(const std::string& bytes) { return decode(view(bytes)); }

/// A new one for each run of the tests; printed where a case fails.
std::uint64_t fresh_seed() {
  static const std::uint64_t seed = [] {
    const std::uint64_t s = std::random_device{}();
    std::printf("seed=%llu\n", static_cast<unsigned long long>(s));
    return s;
  }();
  return seed;
}

/// A valid envelope, for a test to spoil.
wire::Envelope envelope(wire::Role role) {
  wire::Envelope out;
  out.set_protocol_version(kProtocolVersion);
  out.set_role(role);
  out.set_name("worker-1");
  out.set_incarnation(3);
  return out;
}

wire::Envelope prepare(const std::function<void(wire::Share&)>& spoil) {
  wire::Envelope out = envelope(wire::ROLE_RECEIVER);
  wire::Share& share = *out.mutable_prepare()->mutable_manifest()->add_shares();
  share.set_object("object");
  share.set_payload_bytes(4096);
  wire::ShareEntry& entry = *share.add_entries();
  entry.set_name("weight");
  entry.set_dtype(wire::DTYPE_F32);
  entry.add_shape(16);
  spoil(share);
  return out;
}

void expect_invalid(const wire::Envelope& message, const char* in_text) {
  const auto result = decode_string(message.SerializeAsString());
  ASSERT_FALSE(result.is_ok()) << "expected a refusal about " << in_text;
  EXPECT_EQ(result.status().code(), Code::kInvalid) << result.status().message();
  EXPECT_NE(result.status().message().find(in_text), std::string::npos)
      << result.status().message();
}

/// Never a crash (the sanitizers watch), and what is accepted can be said again.
void expect_harmless(const std::string& bytes) {
  const auto result = decode_string(bytes);
  if (!result) {
    EXPECT_FALSE(result.status().message().empty());
    return;
  }
  const auto again = decode_string(encode(*result));
  ASSERT_TRUE(again.is_ok()) << again.status().message();
  EXPECT_TRUE(*again == *result);
}

TEST(Wire, EveryBodySurvivesTheRoundTrip) {
  RandomMessage random(fresh_seed());
  SCOPED_TRACE("seed=" + std::to_string(fresh_seed()));
  std::set<std::size_t> seen;
  for (int round = 0; round < 100; ++round) {
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      const Message message = random.of_kind(kind);
      seen.insert(message.body.index());

      const std::string bytes = encode(message);
      const auto result = decode_string(bytes);

      ASSERT_TRUE(result.is_ok()) << "kind " << kind << ": " << result.status().message();
      EXPECT_TRUE(*result == message) << "kind " << kind;
      EXPECT_EQ(peek_member(view(bytes)), message.member);
    }
  }
  EXPECT_EQ(seen.size(), kKinds);
}

TEST(Wire, TruncatedMessagesAreHarmless) {
  RandomMessage random(fresh_seed() + 1);
  SCOPED_TRACE("seed=" + std::to_string(fresh_seed()));
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    const std::string bytes = encode(random.of_kind(kind));
    for (std::size_t size = 0; size < bytes.size(); ++size) expect_harmless(bytes.substr(0, size));
  }
}

TEST(Wire, FlippedBitsAreHarmless) {
  RandomMessage random(fresh_seed() + 2);
  SCOPED_TRACE("seed=" + std::to_string(fresh_seed()));
  for (int round = 0; round < 10; ++round) {
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      const std::string bytes = encode(random.of_kind(kind));
      for (int i = 0; i < 100; ++i) {
        std::string spoiled = bytes;
        for (std::uint64_t flips = 1 + random.below(3); flips > 0; --flips) {
          spoiled[random.below(spoiled.size())] ^= static_cast<char>(1 << random.below(8));
        }
        expect_harmless(spoiled);
      }
    }
  }
}

TEST(Wire, RandomBytesAreHarmless) {
  RandomMessage random(fresh_seed() + 3);
  SCOPED_TRACE("seed=" + std::to_string(fresh_seed()));
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes(random.below(200), '\0');
    for (char& c : bytes) c = static_cast<char>(random.below(256));
    expect_harmless(bytes);
    // Behind a sound beginning they come further.
    expect_harmless(envelope(wire::ROLE_SOURCE).SerializeAsString() + bytes);
  }
}

TEST(Wire, TheFormatStaysWhatItIs) {
  // A change of these bytes is a change of the protocol: count kProtocolVersion up.
  Message message{.run = {.started_us = 1'700'000'000'000'000, .tie = 7},
                  .member = {.role = Role::kReceiver, .name = "worker-1", .incarnation = 2},
                  .body = Prepare{.attempt = 5, .number = 300, .manifest = {}}};
  plan::ShareEntry entry{.info = {.name = "fc.weight", .aliases = {"head.weight"},
                                  .dtype = DType::kBF16, .shape = {3, 200}, .buffer = true},
                         .offset = 64,
                         .digest = {.a = 0x1122334455667788, .b = 0x99aabbccddeeff00}};
  std::get<Prepare>(message.body).manifest.shares.push_back(
      {.rank = 0, .object = "obj", .generation = 9, .payload_bytes = 4096, .entries = {entry}});

  std::string hex;
  for (unsigned char c : encode(message)) {
    constexpr const char* kDigits = "0123456789abcdef";
    hex += kDigits[c >> 4];
    hex += kDigits[c & 15];
  }

  EXPECT_EQ(hex,
            "0804120b088080f9c0c1c48203100718022208776f726b65722d31290200000000000000ca014a08"
            "0510ac021a430a4112036f626a18092080202a350a0966632e776569676874120b686561642e7765"
            "696768741804220303c801280130403988776655443322114100ffeeddccbbaa99");
}

TEST(Wire, AnotherProtocolVersionIsNamedAndItsSenderKnown) {
  wire::Envelope other = envelope(wire::ROLE_RECEIVER);
  other.set_protocol_version(77);
  std::string bytes = other.SerializeAsString();
  const std::string sound_body = bytes + std::string("\xaa\x01\x00", 3);      // an empty Bye
  const std::string unsound_body = bytes + std::string("\x82\x01\x02\xff\xff", 5);  // a broken Hello
  const std::string unknown_body = bytes + std::string("\xfa\x3f\x02\xff\xff", 5);  // field 1023

  for (const std::string& message : {sound_body, unsound_body, unknown_body}) {
    const auto result = decode_string(message);

    ASSERT_FALSE(result.is_ok());
    EXPECT_EQ(result.status().code(), Code::kMismatch);
    EXPECT_NE(result.status().message().find("version 4, got 77"), std::string::npos)
        << result.status().message();
    EXPECT_EQ(peek_member(view(message)),
              (Member{.role = Role::kReceiver, .name = "worker-1", .incarnation = 3}));
  }
}

TEST(Wire, NoProtocolVersionIsInvalid) {
  wire::Envelope message = envelope(wire::ROLE_SOURCE);
  message.mutable_bye();
  message.clear_protocol_version();
  expect_invalid(message, "protocol version");
  EXPECT_FALSE(decode({}).is_ok());
}

TEST(Wire, UnknownBodiesAreRefused) {
  expect_invalid(envelope(wire::ROLE_SOURCE), "known body");
  const std::string bytes =
      envelope(wire::ROLE_SOURCE).SerializeAsString() + std::string("\xfa\x3f\x02xx", 5);
  EXPECT_EQ(decode_string(bytes).status().code(), Code::kInvalid);
}

TEST(Wire, BodiesOfTheOtherRoleAreRefused) {
  RandomMessage random(fresh_seed() + 4);
  SCOPED_TRACE("seed=" + std::to_string(fresh_seed()));
  int refused = 0;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    Message message = random.of_kind(kind);
    message.member.role = message.member.role == Role::kSource ? Role::kReceiver : Role::kSource;
    if (!decode_string(encode(message))) ++refused;
  }
  // All but Hello, Bye, Welcome and Refused, and what observers ask and hear, which go to both.
  EXPECT_EQ(refused, 10);
}

TEST(Wire, WrongEnumsAreRefused) {
  for (const int value : {-1, 99, 256 + 1}) {
    wire::Envelope role = envelope(static_cast<wire::Role>(value));
    role.mutable_bye();
    expect_invalid(role, "role");
    EXPECT_FALSE(peek_member(view(role.SerializeAsString())).has_value());

    wire::Envelope phase = envelope(wire::ROLE_RECEIVER);
    phase.mutable_receiver_state()->set_phase(static_cast<wire::Phase>(value));
    expect_invalid(phase, "phase");

    wire::Envelope order = envelope(wire::ROLE_RECEIVER);
    order.mutable_receiver_orders()->set_order(static_cast<wire::Order>(value));
    expect_invalid(order, "order");

    wire::Envelope refusal = envelope(wire::ROLE_RECEIVER);
    refusal.mutable_refused()->set_reason(static_cast<wire::Refusal>(value));
    expect_invalid(refusal, "refusal");

    expect_invalid(prepare([&](wire::Share& share) {
                     share.mutable_entries(0)->set_dtype(static_cast<wire::DType>(value));
                   }), "dtype");
  }
}

TEST(Wire, BadNamesAreRefused) {
  for (const std::string& name : {std::string(), std::string(129, 'a'), std::string("a b"),
                                  std::string("a/b"), std::string("a\0b", 3), std::string("\xc3\xa9")}) {
    wire::Envelope member = envelope(wire::ROLE_SOURCE);
    member.mutable_bye();
    member.set_name(name);
    expect_invalid(member, "member's name");

    wire::Envelope policy = envelope(wire::ROLE_RECEIVER);
    policy.mutable_hello()->set_policy(name);
    expect_invalid(policy, "policy's name");

    wire::Envelope verdict = envelope(wire::ROLE_SOURCE);
    verdict.mutable_verdict()->add_lost(name);
    expect_invalid(verdict, "receiver's name");
  }
  wire::Envelope launch = envelope(wire::ROLE_RECEIVER);
  launch.mutable_hello()->set_policy("p");
  launch.mutable_hello()->set_launch(std::string(1025, 'x'));
  expect_invalid(launch, "launch");
}

TEST(Wire, RanksOutsideTheWorldAreRefused) {
  for (const auto& [rank, world] : {std::pair{0U, 0U}, {2U, 2U}, {0U, 65537U}, {~0U, ~0U}}) {
    wire::Envelope hello = envelope(wire::ROLE_SOURCE);
    hello.mutable_hello()->set_policy("p");
    hello.mutable_hello()->set_rank(rank);
    hello.mutable_hello()->set_world_size(world);
    expect_invalid(hello, "world size");
  }
}

TEST(Wire, LongTextsAreCutOnOneSideAndRefusedOnTheOther) {
  Message message{.run = {}, .member = {.role = Role::kReceiver, .name = "w", .incarnation = 1},
                  .body = Refused{.reason = Refusal::kStale, .message = {}}};
  std::string& text = std::get<Refused>(message.body).message;
  text = std::string(4095, 'x') + "\xc3\xa9 and more";

  const auto result = decode_string(encode(message));

  ASSERT_TRUE(result.is_ok()) << result.status().message();
  EXPECT_EQ(std::get<Refused>(result->body).message, std::string(4095, 'x'));

  wire::Envelope foreign = envelope(wire::ROLE_RECEIVER);
  foreign.mutable_receiver_state()->set_failure(std::string(4097, 'x'));
  expect_invalid(foreign, "failure");
  wire::Envelope reason = envelope(wire::ROLE_SOURCE);
  reason.mutable_source_state()->set_void_reason(std::string(4097, 'x'));
  expect_invalid(reason, "reason");
}

TEST(Wire, TextsCannotForgeLinesOfALog) {
  wire::Envelope foreign = envelope(wire::ROLE_RECEIVER);
  foreign.mutable_receiver_state()->set_failure(std::string("a\nb\0c\x1b[31m", 10));

  const auto result = decode_string(foreign.SerializeAsString());

  ASSERT_TRUE(result.is_ok()) << result.status().message();
  EXPECT_EQ(std::get<ReceiverState>(result->body).failure, "a b c [31m");
}

TEST(Wire, ManifestsThatDoNotHoldTogetherAreRefused) {
  ASSERT_TRUE(decode_string(prepare([](wire::Share&) {}).SerializeAsString()).is_ok());
  const auto entry = [](wire::Share& share) -> wire::ShareEntry& { return *share.mutable_entries(0); };

  expect_invalid(prepare([&](wire::Share& s) { entry(s).set_shape(0, -1); }), "dimensions");
  expect_invalid(prepare([&](wire::Share& s) {
                   for (int i = 0; i < 3; ++i) entry(s).add_shape(std::int64_t{1} << 40);
                 }), "63 bits");
  expect_invalid(prepare([&](wire::Share& s) { entry(s).set_shape(0, std::int64_t{1} << 62); }),
                 "63 bits");
  expect_invalid(prepare([&](wire::Share& s) {
                   for (int i = 0; i < 16; ++i) entry(s).add_shape(1);
                 }), "dimensions");
  expect_invalid(prepare([&](wire::Share& s) { *s.add_entries() = entry(s); }), "twice");
  expect_invalid(prepare([&](wire::Share& s) { entry(s).add_aliases("weight"); }), "twice");
  expect_invalid(prepare([&](wire::Share& s) { entry(s).set_name(std::string(1025, 'n')); }), "name");
  expect_invalid(prepare([&](wire::Share& s) { entry(s).set_offset(8); }), "offset");
  expect_invalid(prepare([&](wire::Share& s) { entry(s).set_offset(~std::uint64_t{63}); }), "payload");
  expect_invalid(prepare([&](wire::Share& s) { s.set_payload_bytes(63); }), "payload");
  expect_invalid(prepare([&](wire::Share& s) { s.set_rank(1); }), "rank 0");
  expect_invalid(prepare([&](wire::Share& s) { s.set_object("a\nb"); }), "object");

  wire::Envelope none = envelope(wire::ROLE_RECEIVER);
  none.mutable_prepare();
  expect_invalid(none, "share");
  wire::Envelope sealed = envelope(wire::ROLE_SOURCE);
  sealed.mutable_sealed();
  expect_invalid(sealed, "share");
}

TEST(Wire, HugeCountsAreRefusedBeforeTheyTakeMemory) {
  // Two bytes an element here, a hundred and more once parsed.
  const auto repeated = [](int field, std::size_t count) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) {
      out += static_cast<char>(field << 3 | 2);
      out += '\0';
    }
    return out;
  };
  const auto nested = [](const wire::Envelope& message, const std::string& share) {
    const auto wrap = [](int field, const std::string& inner) {
      std::string out;
      const std::uint64_t tag = static_cast<std::uint64_t>(field) << 3 | 2;
      for (std::uint64_t value : {tag, std::uint64_t{inner.size()}}) {
        for (; value > 0x7f; value >>= 7) out += static_cast<char>(value | 0x80);
        out += static_cast<char>(value);
      }
      return out + inner;
    };
    return message.SerializeAsString() + wrap(25, wrap(3, wrap(1, share)));
  };
  const wire::Envelope start = envelope(wire::ROLE_RECEIVER);

  const auto tensors = decode_string(nested(start, repeated(5, plan::kMaxTensors + 1)));
  EXPECT_NE(tensors.status().message().find("at most 1000000 tensors"), std::string::npos)
      << tensors.status().message();

  wire::Envelope keep = envelope(wire::ROLE_SOURCE);
  for (int i = 0; i < 65; ++i) keep.mutable_source_orders()->add_keep(1);
  expect_invalid(keep, "at most 64 points");

  wire::Envelope verdict = envelope(wire::ROLE_SOURCE);
  for (int i = 0; i < 100'001; ++i) verdict.mutable_verdict()->add_applied("w");
  expect_invalid(verdict, "at most 100000 receivers");

  wire::Envelope shares = envelope(wire::ROLE_RECEIVER);
  for (int i = 0; i < 65'537; ++i) shares.mutable_prepare()->mutable_manifest()->add_shares();
  expect_invalid(shares, "at most 65536 shares");

  expect_invalid(prepare([](wire::Share& s) {
                   for (int i = 0; i < 100'000; ++i) s.mutable_entries(0)->add_shape(1);
                 }), "at most 16 dimensions");
}

TEST(Wire, OversizedMessagesAreNotEvenRead) {
  // No memory stands behind it: reading would fault.
  const std::span<const std::byte> huge(reinterpret_cast<const std::byte*>(4096),
                                        kMaxMessageBytes + 1);
  const auto result = decode(huge);
  ASSERT_FALSE(result.is_ok());
  EXPECT_EQ(result.status().code(), Code::kInvalid);
  EXPECT_FALSE(peek_member(huge).has_value());
}

}  // namespace
}  // namespace weightcast::protocol
