// Status requests and answers that a hostile peer could send; round trips are in wire_test.cpp.
#include <gtest/gtest.h>

#include <functional>

#include "proto/weightcast.pb.h"
#include "protocol/wire.hpp"

namespace weightcast::protocol {
namespace {

Result<Message> decode_envelope(const wire::Envelope& envelope) {
  const std::string bytes = envelope.SerializeAsString();
  return decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

wire::Envelope envelope() {
  wire::Envelope out;
  out.set_protocol_version(kProtocolVersion);
  out.set_role(wire::ROLE_RECEIVER);
  out.set_name("observer-1");
  return out;
}

wire::Envelope answer(const std::function<void(wire::JobStatus&)>& spoil) {
  wire::Envelope out = envelope();
  wire::JobStatus& status = *out.mutable_status_answer()->mutable_status();
  status.set_job("job");
  status.set_policy("policy");
  status.add_trainers();
  wire::EngineStatus& engine = *status.add_engines();
  engine.set_name("engine");
  engine.set_state(1);
  status.add_gone()->set_name("gone");
  spoil(status);
  return out;
}

void expect_refused(const std::function<void(wire::JobStatus&)>& spoil, const char* in_text) {
  const auto result = decode_envelope(answer(spoil));
  ASSERT_FALSE(result.is_ok()) << "expected a refusal about " << in_text;
  EXPECT_EQ(result.status().code(), Code::kInvalid);
  EXPECT_NE(result.status().message().find(in_text), std::string::npos)
      << result.status().message();
}

TEST(WireStatus, RequestsStaySmall) {
  wire::Envelope request = envelope();
  request.mutable_status_request()->set_ordinal(7);
  ASSERT_TRUE(decode_envelope(request)) << decode_envelope(request).status().message();

  // A field that nobody knows, as long as a message may be.
  const std::string bytes =
      request.SerializeAsString() + std::string("\xfa\x3f\x80\x08", 4) + std::string(1024, 'x');
  const auto result = decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
  ASSERT_FALSE(result.is_ok());
  EXPECT_NE(result.status().message().find("at most 512 bytes"), std::string::npos)
      << result.status().message();
}

TEST(WireStatus, AnswersAreChecked) {
  ASSERT_TRUE(decode_envelope(answer([](wire::JobStatus&) {})));

  expect_refused([](wire::JobStatus& s) { s.set_job("a b"); }, "job's name");
  expect_refused([](wire::JobStatus& s) { s.set_policy(""); }, "policy's name");
  expect_refused([](wire::JobStatus& s) { s.set_listening("a b"); }, "listening");
  expect_refused([](wire::JobStatus& s) { s.set_waiting_for(std::string(513, 'x')); }, "512 bytes");
  expect_refused([](wire::JobStatus& s) { s.set_last_apply(-1); }, "time of 0");
  expect_refused([](wire::JobStatus& s) { s.mutable_round()->set_age(-5); }, "time of 0");
  expect_refused([](wire::JobStatus& s) { s.mutable_trainers(0)->set_rank(65536); }, "rank below");
  expect_refused([](wire::JobStatus& s) { s.mutable_trainers(0)->set_host("a\nb"); }, "host");
  expect_refused([](wire::JobStatus& s) { s.mutable_trainers(0)->set_silence(-1); }, "time of 0");
  expect_refused(
      [](wire::JobStatus& s) { s.mutable_trainers(0)->mutable_report()->set_last_hook_ns(-1); },
      "time of 0");
  for (const std::uint32_t state : {0u, 8u, 0x80000001u}) {
    expect_refused([&](wire::JobStatus& s) { s.mutable_engines(0)->set_state(state); }, "state");
  }
  expect_refused([](wire::JobStatus& s) { s.mutable_engines(0)->set_name("a/b"); }, "name");
  expect_refused([](wire::JobStatus& s) { s.mutable_engines(0)->set_last_switch(-1); }, "time");
  expect_refused(
      [](wire::JobStatus& s) {
        s.mutable_engines(0)->mutable_report()->set_transport(std::string(513, 'x'));
      },
      "512 bytes");
  expect_refused([](wire::JobStatus& s) { s.mutable_gone(0)->set_name(""); }, "name");
  expect_refused([](wire::JobStatus& s) { s.mutable_gone(0)->set_ago(-1); }, "time");
}

TEST(WireStatus, LongListsAreRefusedBeforeTheyTakeMemory) {
  expect_refused([](wire::JobStatus& s) { for (int i = 0; i < 1024; ++i) s.add_trainers(); },
                 "at most 1024 trainer ranks");
  expect_refused([](wire::JobStatus& s) { for (int i = 0; i < 1024; ++i) s.add_engines(); },
                 "at most 1024 engines");
  expect_refused([](wire::JobStatus& s) { for (int i = 0; i < 16; ++i) s.add_gone(); },
                 "at most 16 former members");
}

TEST(WireStatus, TextsCannotForgeLinesOfATerminal) {
  const auto result = decode_envelope(answer(
      [](wire::JobStatus& s) { s.mutable_engines(0)->set_trouble("a\n\x1b[2Jb"); }));
  ASSERT_TRUE(result) << result.status().message();
  EXPECT_EQ(std::get<StatusAnswer>(result->body).status.engines[0].trouble, "a  [2Jb");
}

TEST(WireStatus, LongReportsAreCut) {
  ReceiverState state;
  state.report.emplace().activation_reason = std::string(2000, 'x');
  const std::string bytes = encode({{}, {Role::kReceiver, "w", 1}, state});
  const auto result = decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
  ASSERT_TRUE(result) << result.status().message();
  EXPECT_EQ(std::get<ReceiverState>(result->body).report->activation_reason.size(), 512u);
}

}  // namespace
}  // namespace weightcast::protocol
