// Bytes over loopback: the tcp lane, with and without encryption, in units of what one plain stream
// carries between the same buffers in the same run. Prints JSON.
//
//   tcp_bench [megabytes] [rounds] [bucket KiB] [credit MiB] [I/O threads] [socket buffer KiB]
//             (512, 7, 1024, 16, 1 and 0, which is as the system sizes it, when absent)
//
// The variants take turns in each round, and the median of each counts; ratios are medians of the
// ratios within a round. Where it says "verified", the receiver reads what it placed again and
// digests it, as an engine does.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "codec/digest.hpp"
#include "keys/key_ring.hpp"
#include "staging/object_name.hpp"
#include "staging/slab.hpp"
#include "transport/shm/slot_store.hpp"
#include "transport/tcp/tcp_server.hpp"
#include "transport/tcp/tcp_transport.hpp"

namespace {

using namespace weightcast;
using transport::TcpOptions;
using transport::TcpServerOptions;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "tcp_bench: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) fail(result.status().to_string());
  return std::move(*result);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// A connected pair of stream sockets over loopback.
std::array<int, 2> stream_pair() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  const int client = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::bind(listener, plain, size) != 0 || ::listen(listener, 1) != 0 ||
      ::getsockname(listener, plain, &size) != 0 || ::connect(client, plain, size) != 0) {
    fail("no loopback");
  }
  const int server = ::accept(listener, nullptr, nullptr);
  ::close(listener);
  return {server, client};
}

struct Setting {
  std::size_t bytes;
  std::size_t bucket;
  std::uint64_t credit;
  int io_threads;
  int socket_buffer;
};

/// One stream, writes and reads of 1 MiB.
void plain_stream(const std::array<int, 2>& pair, std::span<const std::byte> from,
                  std::span<std::byte> to) {
  constexpr std::size_t kAtOnce = std::size_t{1} << 20;
  std::thread writer([&] {
    for (std::size_t at = 0; at < from.size();) {
      const auto n = ::send(pair[0], from.data() + at, std::min(kAtOnce, from.size() - at), 0);
      if (n <= 0) fail("send");
      at += static_cast<std::size_t>(n);
    }
  });
  for (std::size_t at = 0; at < to.size();) {
    const auto n = ::recv(pair[1], to.data() + at, std::min(kAtOnce, to.size() - at), 0);
    if (n <= 0) fail("recv");
    at += static_cast<std::size_t>(n);
  }
  writer.join();
}

/// What ZeroMQ alone does: a PUSH that sends without copying, a PULL that copies to its place.
class BarePair {
 public:
  BarePair(bool encrypted, const Setting& setting) : setting_(setting) {
    push_.set(zmq::sockopt::linger, 0);
    pull_.set(zmq::sockopt::linger, 0);
    const int queued = static_cast<int>(std::max<std::size_t>(1, setting.credit / setting.bucket));
    push_.set(zmq::sockopt::sndhwm, queued);
    pull_.set(zmq::sockopt::rcvhwm, queued);
    if (encrypted) {
      std::array<char, 41> server_public{}, server_secret{}, client_public{}, client_secret{};
      zmq_curve_keypair(server_public.data(), server_secret.data());
      zmq_curve_keypair(client_public.data(), client_secret.data());
      push_.set(zmq::sockopt::curve_server, 1);
      push_.set(zmq::sockopt::curve_secretkey, server_secret.data());
      pull_.set(zmq::sockopt::curve_serverkey, server_public.data());
      pull_.set(zmq::sockopt::curve_publickey, client_public.data());
      pull_.set(zmq::sockopt::curve_secretkey, client_secret.data());
    }
    push_.bind("tcp://127.0.0.1:*");
    pull_.connect(push_.get(zmq::sockopt::last_endpoint));
  }

  void move(std::span<const std::byte> from, std::span<std::byte> to) {
    std::thread sender([&] {
      for (std::size_t at = 0; at < from.size(); at += setting_.bucket) {
        const std::size_t size = std::min(setting_.bucket, from.size() - at);
        zmq::message_t message(
            const_cast<std::byte*>(from.data()) + at, size, [](void*, void*) {}, nullptr);
        push_.send(std::move(message), zmq::send_flags::none);
      }
    });
    for (std::size_t at = 0; at < to.size();) {
      zmq::message_t message;
      if (!pull_.recv(message)) fail("a bare message got lost");
      std::copy_n(message.data<std::byte>(), message.size(), to.data() + at);
      at += message.size();
    }
    sender.join();
  }

 private:
  const Setting setting_;
  zmq::context_t push_context_{1};
  zmq::context_t pull_context_{1};
  zmq::socket_t push_{push_context_, zmq::socket_type::push};
  zmq::socket_t pull_{pull_context_, zmq::socket_type::pull};
};

/// The product's way.
class LanePair {
 public:
  LanePair(TcpServerOptions serving, TcpOptions asking, const Setting& setting,
           std::shared_ptr<transport::SegmentStore> store, transport::SegmentAddress address)
      : setting_(setting), address_(std::move(address)) {
    serving.io_threads = asking.io_threads = setting.io_threads;
    serving.socket_buffer_bytes = asking.socket_buffer_bytes = setting.socket_buffer;
    asking.credit_bytes = setting.credit;
    server_ = must(transport::TcpServer::start(serving, std::move(store)));
    transport_ = std::make_unique<transport::TcpTransport>(asking);
    lane_ = must(transport_->open_lane({1, 4096}));
    address_.endpoint = server_->endpoint();
    segment_ = must(lane_->acquire(address_));
  }

  void move(std::span<std::byte> to, base::Digest& sum) {
    std::size_t submitted = 0;
    for (std::size_t at = 0; at < to.size(); at += setting_.bucket, ++submitted) {
      const auto part = to.subspan(at, std::min(setting_.bucket, to.size() - at));
      transport::Bucket bucket{.id = submitted, .offset = at, .destination = part, .place = {}};
      bucket.place = [&sum, part, at](std::size_t in, std::span<const std::byte> source) {
        sum += codec::copy_then_digest_placed(part.data() + in, source.data(), source.size(),
                                              (at + in) / 8);
      };
      if (Status s = lane_->submit(segment_, std::move(bucket)); !s) fail(s.to_string());
    }
    for (std::size_t done = 0; done < submitted;) {
      pollfd ready{lane_->event_fd(), POLLIN, 0};
      ::poll(&ready, 1, 1000);
      std::array<transport::Completion, 64> some;
      const std::size_t got = lane_->poll(some);
      for (std::size_t i = 0; i < got; ++i) {
        if (!some[i].status) fail(some[i].status.to_string());
      }
      done += got;
    }
  }

  std::uint64_t resent() const { return transport_->counters().resent; }

 private:
  const Setting setting_;
  transport::SegmentAddress address_;
  std::unique_ptr<transport::TcpServer> server_;
  std::unique_ptr<transport::TcpTransport> transport_;
  std::unique_ptr<transport::Lane> lane_;
  std::shared_ptr<transport::Segment> segment_;
};

struct Variant {
  const char* name;
  std::function<void()> run;
  std::vector<double> seconds{};
  std::vector<double> of_plain{};  ///< ratios of rates
};

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i, std::size_t otherwise) {
    return argc > i ? std::strtoul(argv[i], nullptr, 10) : otherwise;
  };
  const Setting setting{.bytes = number(1, 512) * 1000 * 1000 / 4096 * 4096,
                        .bucket = number(3, 1024) << 10,
                        .credit = number(4, 16) << 20,
                        .io_threads = static_cast<int>(number(5, 1)),
                        .socket_buffer = static_cast<int>(number(6, 0)) << 10};
  const std::size_t rounds = number(2, 7);
  if (setting.bytes == 0 || rounds == 0 || setting.bucket == 0 || setting.io_threads < 1) {
    fail(
        "expected tcp_bench [megabytes >= 1] [rounds >= 1] [bucket KiB >= 1] [credit MiB] "
        "[I/O threads >= 1] [socket buffer KiB]");
  }

  const staging::ObjectOwner owner{"bench-" + std::to_string(::getpid()), "policy", {1, 1}, 0, 1};
  const auto slab = must(staging::Slab::create({owner, 1, setting.bytes}));
  if (!slab->try_lock(0)) fail("the slot is taken");
  const auto generation = slab->begin_write(0);
  const std::span<std::byte> source = slab->payload(0).first(setting.bytes);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 31 >> 3);
  const Version version{{1, 1}, 1};
  slab->seal(0, version, setting.bytes);
  slab->unlock(0);
  const auto store = std::make_shared<transport::SlotStore>(staging::owner_prefix(owner) + ".");
  const transport::SegmentAddress address{slab->object_name(0), version, generation, setting.bytes};
  std::vector<std::byte> to(setting.bytes, std::byte{1});

  std::string folder = "/tmp/wc-bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) fail("no directory for keys");
  if (Status s = keys::KeyRing::make(folder + "/keys"); !s) fail(s.to_string());
  const auto ring = [&](keys::Role role) {
    return std::make_shared<const keys::KeyRing>(must(keys::KeyRing::load(folder + "/keys", role)));
  };
  TcpServerOptions open_server;
  TcpServerOptions curve_server;
  curve_server.keys = ring(keys::Role::kTrainer);
  TcpOptions open;
  TcpOptions curve;
  curve.keys = ring(keys::Role::kEngine);
  open.bucket_digests = curve.bucket_digests = transport::BucketDigests::kAlways;
  TcpOptions open_bare = open;
  TcpOptions curve_bare = curve;
  open_bare.bucket_digests = curve_bare.bucket_digests = transport::BucketDigests::kNever;
  std::filesystem::remove_all(folder);

  const base::Digest expected = codec::digest(source.data(), source.size(), 0);
  const std::array<int, 2> pair = stream_pair();
  BarePair bare(false, setting);
  BarePair bare_curve(true, setting);
  LanePair lane_open(open_server, open, setting, store, address);
  LanePair lane_open_bare(open_server, open_bare, setting, store, address);
  LanePair lane_curve(curve_server, curve, setting, store, address);
  LanePair lane_curve_bare(curve_server, curve_bare, setting, store, address);
  const auto by = [&](LanePair& lane) {
    return [&] {
      base::Digest sum;
      lane.move(to, sum);
      if (!(sum == expected)) fail("a lane brought other bytes");
    };
  };
  std::vector<Variant> variants;
  variants.push_back({"plain_stream", [&] { plain_stream(pair, source, to); }});
  variants.push_back({"zeromq", [&] { bare.move(source, to); }});
  variants.push_back({"zeromq_curve", [&] { bare_curve.move(source, to); }});
  variants.push_back({"lane_verified_open", by(lane_open_bare)});
  variants.push_back({"lane_verified_open_bucket_digests", by(lane_open)});
  variants.push_back({"lane_verified_curve", by(lane_curve_bare)});
  variants.push_back({"lane_verified_curve_bucket_digests", by(lane_curve)});

  for (std::size_t round = 0; round <= rounds; ++round) {
    double plain = 0;
    for (Variant& variant : variants) {
      const auto begin = std::chrono::steady_clock::now();
      variant.run();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      if (&variant == &variants.front()) plain = took.count();
      if (round == 0) continue;  // first touches, connections
      variant.seconds.push_back(took.count());
      variant.of_plain.push_back(plain / took.count());
    }
  }
  const double curve_seconds = median(variants[2].seconds);
  std::string text;
  for (const Variant& variant : variants) {
    const double seconds = median(variant.seconds);
    std::array<char, 200> line{};
    std::snprintf(line.data(), line.size(),
                  "%s\"%s\": {\"gb_per_s\": %.3f, \"of_plain_stream\": %.3f, "
                  "\"of_zeromq_curve\": %.3f, \"seconds\": [",
                  text.empty() ? "" : ", ", variant.name,
                  static_cast<double>(setting.bytes) / seconds / 1e9, median(variant.of_plain),
                  curve_seconds / seconds);
    text += line.data();
    for (std::size_t i = 0; i < variant.seconds.size(); ++i) {
      std::snprintf(line.data(), line.size(), "%s%.6f", i == 0 ? "" : ", ", variant.seconds[i]);
      text += line.data();
    }
    text += "]}";
  }
  std::printf(
      "{\"bytes\": %zu, \"rounds\": %zu, \"bucket_bytes\": %zu, \"credit_bytes\": %llu, "
      "\"io_threads\": %d, \"socket_buffer_bytes\": %d, \"resent\": %llu, \"variants\": {%s}}\n",
      setting.bytes, rounds, setting.bucket, static_cast<unsigned long long>(setting.credit),
      setting.io_threads, setting.socket_buffer,
      static_cast<unsigned long long>(lane_open.resent() + lane_curve.resent()), text.c_str());
  ::close(pair[0]);
  ::close(pair[1]);
  return 0;
}
