#include "simulation/describe.hpp"

#include <variant>

namespace weightcast::simulation {
namespace {

using std::to_string;

std::string describe_body(const protocol::Hello& it) {
  return "Hello serving=" + to_string(it.serving.number) + " next_point=" + to_string(it.next_point);
}
std::string describe_body(const protocol::SourceState& it) {
  return "SourceState #" + to_string(it.sequence) + " next_point=" + to_string(it.next_point) +
         (it.waiting ? " waiting" : "") + (it.ready ? " ready" : "") +
         " grant=" + to_string(it.grant_ordinal) + (it.grant_void ? " void" : "");
}
std::string describe_body(const protocol::Sealed& it) {
  return "Sealed grant=" + to_string(it.grant_ordinal) + " point=" + to_string(it.point);
}
std::string describe_body(const protocol::ReceiverState& it) {
  return "ReceiverState #" + to_string(it.sequence) + " attempt=" + to_string(it.attempt) +
         " phase=" + to_string(static_cast<int>(it.phase)) +
         " serving=" + to_string(it.serving.number) + (it.lagging ? " lagging" : "") +
         (it.dirty ? " dirty" : "");
}
std::string describe_body(const protocol::FlushRequest& it) {
  return "FlushRequest point=" + to_string(it.point);
}
std::string describe_body(const protocol::Bye&) { return "Bye"; }
std::string describe_body(const protocol::Welcome& it) {
  return "Welcome next_point=" + to_string(it.next_point);
}
std::string describe_body(const protocol::Refused& it) {
  return "Refused reason=" + to_string(static_cast<int>(it.reason));
}
std::string describe_body(const protocol::SourceOrders& it) {
  return "SourceOrders #" + to_string(it.sequence) + " grant=" + to_string(it.grant_ordinal) +
         " at=" + to_string(it.grant_point) + (it.grant_open ? " open" : "") +
         " sealed=" + to_string(it.sealed_ordinal) + " committed=" + to_string(it.committed);
}
std::string describe_body(const protocol::Prepare& it) {
  return "Prepare attempt=" + to_string(it.attempt) + " number=" + to_string(it.number) +
         (it.relay_name.empty() ? "" : " from " + it.relay_name);
}
std::string describe_body(const protocol::ReceiverOrders& it) {
  return "ReceiverOrders #" + to_string(it.sequence) + " attempt=" + to_string(it.attempt) +
         " order=" + to_string(static_cast<int>(it.order));
}
std::string describe_body(const protocol::Verdict& it) {
  return "Verdict number=" + to_string(it.number);
}
std::string describe_body(const protocol::Capturing& it) {
  return "Capturing grant=" + to_string(it.grant_ordinal) + " point=" + to_string(it.point);
}
std::string describe_body(const protocol::Ahead& it) { return "Ahead number=" + to_string(it.number); }
std::string describe_body(const protocol::StatusRequest&) { return "StatusRequest"; }
std::string describe_body(const protocol::StatusAnswer&) { return "StatusAnswer"; }

}  // namespace

std::string describe(const protocol::Message& message) {
  return message.member.name + "/" + to_string(message.member.incarnation % 100'000'000) + " " +
         std::visit([](const auto& body) { return describe_body(body); }, message.body);
}

}  // namespace weightcast::simulation
