// Java's clients, one a run: `java Agent.java CLIENT FACTS-URL`. What the environment cannot say is a client of its own here:
// Java has no property for the proxy's user and password.
import java.io.ByteArrayInputStream;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.URL;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;

public class Agent {
    static final String TOKEN = "Bearer " + System.getenv("ITEMS_TOKEN");
    static final byte[] BULK = new byte[200_000];

    interface Ask {
        String ask(String method, String path, byte[] body, int status) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        String items = arguments[1];
        switch (arguments[0]) {
            case "HttpClient" -> fourRequests(byClient(HttpClient.newHttpClient(), items));
            case "HttpURLConnection" -> fourRequests(byConnection(items));
            case "HttpClient, authenticator" -> fourRequests(byClient(HttpClient.newBuilder().authenticator(known()).build(), items));
            case "HttpURLConnection, authenticator" -> {
                Authenticator.setDefault(known());
                fourRequests(byConnection(items));
            }
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.out.println("{\"version\": \"" + System.getProperty("java.version") + "\"}");
    }

    static Authenticator known() {
        String[] pair = URI.create(System.getenv("HTTPS_PROXY")).getRawUserInfo().split(":", 2);
        return new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                if (getRequestorType() != RequestorType.PROXY) return null;
                return new PasswordAuthentication(plain(pair[0]), plain(pair[1]).toCharArray());
            }
        };
    }

    static String plain(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    static void fourRequests(Ask how) throws Exception {
        check("GET", how.ask("GET", "/v1/items", null, 200).contains("\"items\""));
        check("POST", how.ask("POST", "/v1/items", "{\"name\": \"x\"}".getBytes(), 201).contains("\"x\""));
        check("upload", how.ask("POST", "/v1/upload", BULK, 200).contains("\"bytes\":200000"));
        check("events", how.ask("GET", "/v1/stream?n=3&ms=20", null, 200).split("data: ").length == 4);
    }

    static void check(String what, boolean truth) {
        if (!truth) throw new IllegalStateException(what);
    }

    static Ask byClient(HttpClient client, String base) {
        return (method, path, body, status) -> {
            var publisher = body == null ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofByteArray(body);
            var request = HttpRequest.newBuilder(URI.create(base + path)).method(method, publisher).header("Authorization", TOKEN);
            HttpResponse<String> answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            check(method + " " + path + ": " + answer.statusCode() + " " + answer.body(), answer.statusCode() == status);
            check("HTTP/2", answer.version() == HttpClient.Version.HTTP_2);
            return answer.body();
        };
    }

    static Ask byConnection(String base) {
        return (method, path, body, status) -> {
            HttpURLConnection connection = (HttpURLConnection) new URL(base + path).openConnection();
            connection.setRequestMethod(method);
            connection.setRequestProperty("Authorization", TOKEN);
            if (body != null) {
                connection.setDoOutput(true);
                new ByteArrayInputStream(body).transferTo(connection.getOutputStream());
            }
            int said = connection.getResponseCode();
            check(method + " " + path + ": " + said, said == status);
            return new String(connection.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        };
    }
}
