#include "keys/zap.hpp"

#include <pthread.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "keys/key_file.hpp"

namespace weightcast::keys {
namespace {

constexpr const char* kHandler = "inproc://zeromq.zap.01";  // RFC 27
constexpr const char* kEvents = "inproc://weightcast.handshakes";
constexpr const char* kDomain = "weightcast";
constexpr int kFailures = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
constexpr auto kLogPeriod = std::chrono::seconds(10);
constexpr std::size_t kMaxParts = 16;

struct SocketCloser {
  void operator()(void* socket) const noexcept { zmq_close(socket); }
};
using Socket = std::unique_ptr<void, SocketCloser>;

struct Message {
  Message() { zmq_msg_init(&it); }
  ~Message() { zmq_msg_close(&it); }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;
  zmq_msg_t it;
};

/// All parts of the next message, without waiting; nothing where there is none.
std::vector<std::string> receive(void* socket) {
  std::vector<std::string> parts;
  for (bool more = true; more;) {
    Message part;
    if (zmq_msg_recv(&part.it, socket, ZMQ_DONTWAIT) < 0) {
      if (zmq_errno() == EINTR) continue;
      return {};
    }
    more = zmq_msg_more(&part.it) != 0;
    if (parts.size() < kMaxParts) {
      parts.emplace_back(static_cast<const char*>(zmq_msg_data(&part.it)), zmq_msg_size(&part.it));
    }
  }
  return parts;
}

Status failed(const char* what) {
  const int error = zmq_errno();
  const Code code = error == EADDRINUSE                                     ? Code::kExists
                    : error == EMFILE || error == ENFILE || error == ENOMEM ? Code::kExhausted
                                                                            : Code::kInternal;
  return {code, std::string(what) + ": " + zmq_strerror(error)};
}

const char* reason_of(std::uint16_t event, std::uint32_t value) {
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) return "its key is not allowed";
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) return "it went away or said nothing";
  if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) return "it has no keys";
  if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) {
    return "it has another key of this side, or repeats another connection's bytes";
  }
  return "it speaks no ZeroMQ with keys";
}

}  // namespace

struct Zap::Impl {
  void run();
  void answer(const std::vector<std::string>& request);
  void note_failure(const std::vector<std::string>& event);

  void* context = nullptr;
  std::shared_ptr<const KeyRing> ring;
  Socket requests;  // the thread's, once it runs
  Socket events;    // the thread's, once it runs
  std::atomic<std::uint64_t> denied{0};
  std::atomic<std::uint64_t> failures{0};
  base::RateLimit denial_log{kLogPeriod};
  base::RateLimit failure_log{kLogPeriod};
  std::thread thread;
};

Zap::Zap(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Zap>> Zap::start(void* context, std::shared_ptr<const KeyRing> ring) {
  auto impl = std::make_unique<Impl>();
  impl->context = context;
  impl->ring = std::move(ring);
  impl->requests.reset(zmq_socket(context, ZMQ_REP));
  impl->events.reset(zmq_socket(context, ZMQ_PAIR));
  if (!impl->requests || !impl->events) return failed("cannot make the sockets of the key check");
  const int none = 0;
  for (void* socket : {impl->requests.get(), impl->events.get()}) {
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
  }
  // The one that reports handshakes binds its end when protect() is called.
  if (zmq_bind(impl->requests.get(), kHandler) != 0 ||
      zmq_connect(impl->events.get(), kEvents) != 0) {
    return failed("cannot start the key check");
  }
  const base::ScopedSignalMask mask;
  try {
    impl->thread = std::thread([raw = impl.get()] { raw->run(); });
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot start the key check: ") + error.what());
  }
  return std::unique_ptr<Zap>(new Zap(std::move(impl)));
}

Zap::~Zap() {
  zmq_ctx_shutdown(impl_->context);
  if (impl_->thread.joinable()) impl_->thread.join();
}

Status Zap::protect(void* server_socket) {
  const int yes = 1;
  const std::string& secret = impl_->ring->own().secret_key;
  if (zmq_setsockopt(server_socket, ZMQ_CURVE_SERVER, &yes, sizeof yes) != 0 ||
      zmq_setsockopt(server_socket, ZMQ_CURVE_SECRETKEY, secret.c_str(), secret.size() + 1) != 0 ||
      zmq_setsockopt(server_socket, ZMQ_ZAP_DOMAIN, kDomain, std::strlen(kDomain)) != 0) {
    return failed("cannot protect a socket with keys (is ZeroMQ built with CURVE?)");
  }
  if (zmq_socket_monitor(server_socket, kEvents, kFailures) != 0) {
    return failed("cannot watch a socket's handshakes");
  }
  return Status::ok();
}

std::uint64_t Zap::denied() const noexcept { return impl_->denied; }
std::uint64_t Zap::failed_handshakes() const noexcept { return impl_->failures; }

void Zap::Impl::run() {
  pthread_setname_np(pthread_self(), "wc-keys");
  zmq_pollitem_t items[] = {{requests.get(), 0, ZMQ_POLLIN, 0}, {events.get(), 0, ZMQ_POLLIN, 0}};
  // Ends with ETERM, when the context does.
  while (zmq_poll(items, 2, -1) >= 0 || zmq_errno() == EINTR) {
    try {
      if (const auto request = receive(requests.get()); !request.empty()) answer(request);
      if (const auto event = receive(events.get()); !event.empty()) note_failure(event);
    } catch (const std::exception&) {
      // Out of memory: that connection fails, the next one may not.
      base::log(LogLevel::kWarn, "key_check_failed", {{"what", "a connection was not checked"}});
    }
  }
  requests.reset();
  events.reset();
}

void Zap::Impl::answer(const std::vector<std::string>& request) {
  // version, request id, domain, address, routing id, mechanism, credentials
  std::optional<Role> role;
  if (request.size() == 7 && request[0] == "1.0" && request[5] == "CURVE") {
    role = ring->role_of(request[6]);
  }
  if (!role) {
    ++denied;
    if (denial_log.allow(Clock::now())) {
      const std::string key = request.size() == 7 ? encode_key(request[6]) : "";
      base::log(LogLevel::kWarn, "connection_denied",
                {{"key", key.empty() ? "none" : key},
                 {"from", request.size() == 7 ? request[3] : "?"},
                 {"denied", denied.load()},
                 {"what", "its public key is on no list; if it belongs to this job, copy one "
                          "folder of keys to both sides, or add the key to trainer.allowed or "
                          "engine.allowed there and restart"}});
    }
  }
  const std::string_view parts[] = {"1.0",
                                    request.size() > 1 ? std::string_view(request[1]) : "",
                                    role ? "200" : "400",
                                    role ? "OK" : "the key is not allowed",
                                    role ? role_name(*role) : "",
                                    ""};
  for (std::size_t i = 0; i < std::size(parts); ++i) {
    const int flags = i + 1 < std::size(parts) ? ZMQ_SNDMORE | ZMQ_DONTWAIT : ZMQ_DONTWAIT;
    if (zmq_send(requests.get(), parts[i].data(), parts[i].size(), flags) < 0) return;
  }
}

void Zap::Impl::note_failure(const std::vector<std::string>& event) {
  // 16 bits of event and 32 of value, in this machine's order; then the server's endpoint.
  std::uint16_t kind = 0;
  std::uint32_t value = 0;
  if (event.size() != 2 || event[0].size() != sizeof kind + sizeof value) return;
  std::memcpy(&kind, event[0].data(), sizeof kind);
  std::memcpy(&value, event[0].data() + sizeof kind, sizeof value);
  if ((kind & kFailures) == 0) return;
  ++failures;
  // Who has a key that is not allowed was named above.
  if (kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH || !failure_log.allow(Clock::now())) return;
  base::log(LogLevel::kWarn, "handshake_failed",
            {{"at", event[1]},
             {"failed", failures.load()},
             {"why", reason_of(kind, value)},
             {"what", "if it belongs to this job, give both sides the same folder of keys (option "
                      "`keys`); else keep it off this port"}});
}

Status use_keys(void* client_socket, const KeyRing& ring, Role server) {
  const std::string& server_key = ring.server_key(server);
  const KeyPair& own = ring.own();
  if (zmq_setsockopt(client_socket, ZMQ_CURVE_SERVERKEY, server_key.c_str(),
                     server_key.size() + 1) != 0 ||
      zmq_setsockopt(client_socket, ZMQ_CURVE_PUBLICKEY, own.public_key.c_str(),
                     own.public_key.size() + 1) != 0 ||
      zmq_setsockopt(client_socket, ZMQ_CURVE_SECRETKEY, own.secret_key.c_str(),
                     own.secret_key.size() + 1) != 0) {
    return failed("cannot give a socket its keys (is ZeroMQ built with CURVE?)");
  }
  return Status::ok();
}

std::optional<Role> role_of_message(void* message) {
  const char* user = zmq_msg_gets(static_cast<const zmq_msg_t*>(message), "User-Id");
  if (user == nullptr) return std::nullopt;
  for (const Role role : {Role::kTrainer, Role::kEngine}) {
    if (role_name(role) == user) return role;
  }
  return std::nullopt;
}

}  // namespace weightcast::keys
