#include <pthread.h>

#include <utility>  // Asio 1.18 forgets it

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <system_error>
#include <thread>

#include "base/signal_mask.hpp"
#include "metrics/outlet.hpp"

namespace weightcast::metrics {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kMostClients = 16;
constexpr std::size_t kMostRequestBytes = 8 * 1024;
constexpr auto kForRequest = std::chrono::seconds(5);
constexpr auto kForAnswer = std::chrono::seconds(10);
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);  ///< no descriptor left, say

using Response = http::response<http::string_body>;

Response answer(const http::request<http::empty_body>& request, const MakeText& text) {
  Response response(http::status::ok, 11);
  response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  response.set(http::field::cache_control, "no-store");
  response.keep_alive(false);
  const auto target = request.target().substr(0, request.target().find('?'));
  try {
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      response.result(http::status::method_not_allowed);
      response.set(http::field::allow, "GET, HEAD");
      response.body() = "expected GET\n";
    } else if (target != "/metrics") {
      response.result(http::status::not_found);
      response.body() = "metrics are at /metrics\n";
    } else {
      response.body() = text();
    }
  } catch (const std::exception&) {
    response.result(http::status::internal_server_error);
    response.body() = "the metrics could not be collected\n";
  }
  response.prepare_payload();
  if (request.method() == http::verb::head) response.body().clear();
  return response;
}

/// One client: a request, its answer, the end. Keeps itself alive while anything is under way.
class Client : public std::enable_shared_from_this<Client> {
 public:
  Client(tcp::socket socket, const MakeText& text, int& clients)
      : stream_(std::move(socket)), text_(text), clients_(clients) {
    ++clients_;
    parser_.header_limit(kMostRequestBytes);
    parser_.body_limit(std::uint64_t{0});
  }
  ~Client() { --clients_; }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void serve() {
    stream_.expires_after(kForRequest);
    http::async_read(stream_, buffer_, parser_,
                     [self = shared_from_this()](error_code error, std::size_t) {
                       self->heard(error);
                     });
  }

 private:
  void heard(error_code error) {
    if (error && error.category() != http::make_error_code(http::error::end_of_stream).category()) {
      return;  // gone, or too slow
    }
    if (error == http::error::end_of_stream || error == http::error::partial_message) return;
    if (error) {
      response_.emplace(http::status::bad_request, 11);
      response_->keep_alive(false);
      response_->body() = "not a request that is understood here: " + error.message() + "\n";
      response_->prepare_payload();
    } else {
      response_.emplace(answer(parser_.get(), text_));
    }
    stream_.expires_after(kForAnswer);
    http::async_write(stream_, *response_, [self = shared_from_this()](error_code, std::size_t) {
      error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    });
  }

  beast::tcp_stream stream_;
  const MakeText& text_;
  int& clients_;
  beast::flat_buffer buffer_{kMostRequestBytes};
  http::request_parser<http::empty_body> parser_;
  std::optional<Response> response_;
};

class Endpoint final : public Outlet {
 public:
  explicit Endpoint(MakeText text) : text_(std::move(text)) {}

  Status start(const config::Place& place) {
    error_code error;
    const auto address = asio::ip::make_address(place.host, error);
    if (error) return Status(Code::kInvalid, "expected an address, got " + place.host);
    const tcp::endpoint at(address, place.port);
    acceptor_.open(at.protocol(), error);
    // A place that was let go a moment ago is free; one where somebody listens is not.
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(at, error);
    if (!error) acceptor_.listen(kMostClients, error);
    if (error) return cannot_listen(place, error);
    where_ = "http://" + config::show_place(place.host, acceptor_.local_endpoint().port()) +
             "/metrics";
    accept();
    const base::ScopedSignalMask mask;
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "wc-metrics");
      io_.run();
    });
    return Status::ok();
  }

  ~Endpoint() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  const std::string& where() const noexcept override { return where_; }

 private:
  static Status cannot_listen(const config::Place& place, const error_code& error) {
    const std::string what = "cannot listen at " + config::show_place(place.host, place.port);
    if (error == asio::error::address_in_use) {
      return {Code::kExists, what + ": somebody does already; give every process of this host a "
                                    "port of its own, 0 for a free one, or a file with %n"};
    }
    const bool denied = error == asio::error::access_denied;
    return {denied ? Code::kDenied : Code::kInvalid,
            what + ": " + error.message() + "; expected an address of this host and a free port"};
  }

  void accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) {
        retry_.expires_after(kAcceptRetry);
        retry_.async_wait([this](error_code cancelled) {
          if (!cancelled) accept();
        });
        return;
      }
      // Beyond the bound the connection is closed at once.
      if (clients_ < kMostClients) {
        std::make_shared<Client>(std::move(socket), text_, clients_)->serve();
      }
      accept();
    });
  }

  const MakeText text_;
  int clients_ = 0;  ///< the thread's own; outlives the io_context, which ends the last clients
  std::string where_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::steady_timer retry_{io_};
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Outlet>> serve_http(const config::Place& place, MakeText text) {
  auto endpoint = std::make_unique<Endpoint>(std::move(text));
  try {
    if (Status status = endpoint->start(place); !status) return status;
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot serve metrics: ") + error.what());
  }
  return std::unique_ptr<Outlet>(std::move(endpoint));
}

}  // namespace weightcast::metrics
