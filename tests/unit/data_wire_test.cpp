#include "transport/tcp/wire.hpp"

#include <gtest/gtest.h>

#include "proto/data.pb.h"

namespace weightcast::transport {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

DataRequest some_request() {
  return {.id = 42,
          .kind = RequestKind::kBucket,
          .segment = {"weightcast.0.job.policy.1-2.r0.1.s3", {{1700000000000000, 7}, 12}, 5, 4096},
          .offset = 0,
          .bytes = 96,
          .strips = {{0, 16, 4, 64}, {4064, 32, 1, 0}},
          .want_digest = true};
}

TEST(DataWireTest, ARequestComesBackAsItWas) {
  const DataRequest sent = some_request();

  const auto got = decode_request(bytes_of(encode(sent)));

  ASSERT_TRUE(got.is_ok()) << got.status().to_string();
  EXPECT_EQ(got->id, sent.id);
  EXPECT_EQ(got->kind, sent.kind);
  EXPECT_EQ(got->segment.object, sent.segment.object);
  EXPECT_EQ(got->segment.version, sent.segment.version);
  EXPECT_EQ(got->segment.generation, sent.segment.generation);
  EXPECT_EQ(got->segment.payload_bytes, sent.segment.payload_bytes);
  EXPECT_EQ(got->bytes, sent.bytes);
  EXPECT_EQ(got->strips, sent.strips);
  EXPECT_TRUE(got->want_digest);
}

TEST(DataWireTest, AReplyComesBackAsItWas) {
  const DataReply sent{.id = 7,
                       .status = {Code::kStale, "the slot\nhas moved on"},
                       .bytes = 12,
                       .digest = base::Digest{1, ~std::uint64_t{0}}};

  const auto got = decode_reply(bytes_of(encode(sent)));

  ASSERT_TRUE(got.is_ok()) << got.status().to_string();
  EXPECT_EQ(got->id, 7U);
  EXPECT_EQ(got->status.code(), Code::kStale);
  EXPECT_EQ(got->status.message(), "the slot has moved on");
  EXPECT_EQ(got->bytes, 12U);
  EXPECT_EQ(got->digest, sent.digest);
}

DataRequest some_session_request() {
  DataRequest request{.id = 9, .kind = RequestKind::kSession, .segment = some_request().segment};
  request.session = {"engine1", 3,  request.segment.version, request.segment.generation,
                     77,        "GPU-7", 22809, 12, 4, false, 3, true, "host a", "board"};
  return request;
}

TEST(DataWireTest, AnAskForASessionComesBackAsItWas) {
  const DataRequest sent = some_session_request();

  const auto got = decode_request(bytes_of(encode(sent)));

  ASSERT_TRUE(got.is_ok()) << got.status().to_string();
  EXPECT_EQ(got->kind, RequestKind::kSession);
  const SessionAsk& ask = got->session;
  EXPECT_EQ(ask.name, "engine1");
  EXPECT_EQ(ask.incarnation, 3U);
  EXPECT_EQ(ask.version, sent.segment.version);
  EXPECT_EQ(ask.generation, 5U);
  EXPECT_EQ(ask.plan, 77U);
  EXPECT_EQ(ask.device, "GPU-7");
  EXPECT_EQ(ask.nccl_version, 22809);
  EXPECT_EQ(ask.have, 12U);
  EXPECT_EQ(ask.failed, 4U);
  EXPECT_FALSE(ask.is_ready);
  EXPECT_EQ(ask.kept, 3U);
  EXPECT_TRUE(ask.may_keep);
  EXPECT_EQ(ask.place, "host a");
  EXPECT_EQ(ask.board, "board");
}

TEST(DataWireTest, AnAnswerAboutASessionComesBackAsItWas) {
  SessionAnswer go{SessionAnswer::Kind::kGo, {}, 6, 4, true, 8, {}, 2, 5, 11, 3, "board", 99, 2};
  go.id.bytes.fill(std::byte{9});
  const auto got = decode_reply(bytes_of(encode({.id = 7, .status = {}, .session = go})));
  ASSERT_TRUE(got.is_ok()) << got.status().to_string();
  ASSERT_TRUE(got->session);
  EXPECT_EQ(got->session->kind, SessionAnswer::Kind::kGo);
  EXPECT_EQ(got->session->session, 6U);
  EXPECT_EQ(got->session->kept, 4U);
  EXPECT_TRUE(got->session->keeps);
  EXPECT_EQ(got->session->blocks, 8);
  EXPECT_EQ(got->session->id, go.id);
  EXPECT_EQ(got->session->rank, 2);
  EXPECT_EQ(got->session->size, 5);
  EXPECT_EQ(got->session->first, 11U);
  EXPECT_EQ(got->session->neighbours, 3U);
  EXPECT_EQ(got->session->board, "board");
  EXPECT_EQ(got->session->leader_ask, 99U);
  EXPECT_EQ(got->session->seat, 2U);

  const Status why(Code::kMismatch, "other buckets");
  SessionAnswer refusal;
  refusal.kind = SessionAnswer::Kind::kRefuse;
  const auto refused =
      decode_reply(bytes_of(encode({.id = 7, .status = why, .session = refusal})));
  ASSERT_TRUE(refused.is_ok());
  EXPECT_EQ(refused->session->kind, SessionAnswer::Kind::kRefuse);
  EXPECT_EQ(refused->session->status.code(), Code::kMismatch);
  EXPECT_EQ(refused->session->status.message(), "other buckets");
}

TEST(DataWireTest, SessionsThatMakeNoSenseAreRefused) {
  const auto ask_code = [](auto&& spoil) {
    DataRequest request = some_session_request();
    spoil(request.session);
    return decode_request(bytes_of(encode(request))).status().code();
  };
  EXPECT_EQ(ask_code([](SessionAsk& ask) { ask.name.clear(); }), Code::kInvalid);
  EXPECT_EQ(ask_code([](SessionAsk& ask) { ask.name = std::string(256, 'x'); }), Code::kInvalid);
  EXPECT_EQ(ask_code([](SessionAsk& ask) { ask.device = "GPU\n7"; }), Code::kInvalid);
  EXPECT_EQ(ask_code([](SessionAsk& ask) { ask.place = std::string(256, 'x'); }), Code::kInvalid);
  EXPECT_EQ(ask_code([](SessionAsk& ask) { ask.board = "a\nb"; }), Code::kInvalid);
  const auto answer_code = [](auto&& spoil) {
    data::Reply reply;
    reply.set_format(kDataFormat);
    data::SessionAnswer& answer = *reply.mutable_session();
    answer.set_kind(1);
    answer.set_id(std::string(128, 'i'));
    answer.set_rank(1);
    answer.set_size(2);
    spoil(answer);
    return decode_reply(bytes_of(reply.SerializeAsString())).status().code();
  };
  EXPECT_EQ(answer_code([](data::SessionAnswer&) {}), Code::kOk);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_kind(3); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_id("short"); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_rank(2); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_blocks(65); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_board("a\nb"); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_neighbours(64); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_seat(63); }), Code::kInvalid);
  EXPECT_EQ(answer_code([](data::SessionAnswer& a) { a.set_size(1u << 30); }), Code::kInvalid);
}

TEST(DataWireTest, LongTextsAreCutToFitAReply) {
  const std::string bytes = encode({.id = 7, .status = {Code::kInternal, std::string(9999, 'x')}});

  EXPECT_LE(bytes.size(), kMaxReplyBytes);
  EXPECT_TRUE(decode_reply(bytes_of(bytes)).is_ok());
}

TEST(DataWireTest, WhatMakesNoSenseIsInvalid) {
  const auto code = [](auto change) {
    DataRequest request = some_request();
    change(request);
    return decode_request(bytes_of(encode(request))).status().code();
  };
  const auto strips = [&](std::vector<Strip> list, std::uint64_t bytes) {
    return code([&](DataRequest& r) {
      r.strips = std::move(list);
      r.bytes = bytes;
    });
  };

  EXPECT_EQ(code([](auto& r) { r.kind = static_cast<RequestKind>(9); }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.segment.object.clear(); }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.segment.object = "a\nb"; }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.segment.object = std::string(kMaxObjectBytes + 1, 'x'); }),
            Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.bytes = 95; }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.segment.payload_bytes = 4095; }), Code::kInvalid);
  EXPECT_EQ(strips({}, 4097), Code::kInvalid);
  EXPECT_EQ(strips({{0, 0, 1, 0}}, 0), Code::kInvalid);
  EXPECT_EQ(strips({{0, 1, ~std::uint64_t{0}, 1}}, ~std::uint64_t{0}), Code::kInvalid);
  EXPECT_EQ(strips(std::vector<Strip>(kMaxStrips + 1, Strip{0, 1, 1, 0}), kMaxStrips + 1),
            Code::kInvalid);
  EXPECT_EQ(code([](auto& r) {
              r.segment.payload_bytes = ~std::uint64_t{0};
              r.strips.clear();
              r.bytes = kMaxBucketBytes + 1;
            }),
            Code::kInvalid);
  EXPECT_EQ(decode_request({}).status().code(), Code::kMismatch) << "no format";
  EXPECT_EQ(decode_request(bytes_of("\xff\xff")).status().code(), Code::kInvalid);
  EXPECT_EQ(decode_request(bytes_of(std::string(kMaxRequestBytes + 1, 'x'))).status().code(),
            Code::kInvalid);
}

TEST(DataWireTest, AnotherFormatIsAMismatchThatNamesBoth) {
  data::Request request;
  request.set_format(kDataFormat + 1);

  const auto got = decode_request(bytes_of(request.SerializeAsString()));

  ASSERT_FALSE(got.is_ok());
  EXPECT_EQ(got.status().code(), Code::kMismatch);
  EXPECT_NE(got.status().message().find("expected data format 1, got 2"), std::string::npos);
}

TEST(DataWireTest, RepliesBeyondLimitsAreInvalid) {
  const auto code = [](auto change) {
    data::Reply reply;
    reply.set_format(kDataFormat);
    change(reply);
    return decode_reply(bytes_of(reply.SerializeAsString())).status().code();
  };

  EXPECT_EQ(code([](auto&) {}), Code::kOk);
  EXPECT_EQ(code([](auto& r) { r.set_code(99); }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.set_bytes(kMaxBucketBytes + 1); }), Code::kInvalid);
  EXPECT_EQ(code([](auto& r) { r.set_text(std::string(1025, 'x')); }), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::transport
