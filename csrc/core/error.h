// The error users see. bindings.cpp raises it as lynx_engine.errors.LynxError.
#pragma once
#include <sstream>
#include <stdexcept>

namespace lynx {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace lynx
